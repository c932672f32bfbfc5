"""Phantoms, drawn for demonstrations and tests: optic discs, OCT scans, brain slices.

Of the discs, anatomy and camera are apart: both domains draw their eyes from one distribution, so
that nothing but the picture differs between them (a covariate shift without a label shift). The
camera of the second domain can also take a real photograph.
"""

import csv
import os
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from keras_meduda.data._cv2 import cv2

BACKGROUND, RIM, CUP = 0, 128, 255  # the values of a mask


@dataclass(frozen=True)
class Camera:
    """How a fundus camera renders a scene: its optics, its colours, its noise, in this order.

    Args:
        blur: standard deviation of the blur, in image widths.
        haze: share of stray light.
        vignette: share of light that is lost in the corners.
        hue: rotation of the colours about the grey axis, in degrees; red turns to yellow.
        saturation: factor on the distance from grey.
        gamma: exponent on the grey values; below 1 is brighter.
        noise: standard deviation of the noise, for grey values in 0…1.
    """

    blur: float
    haze: float
    vignette: float
    hue: float
    saturation: float
    gamma: float
    noise: float


# The second is an older one, looking through a cloudy lens: pale, yellowish, dark at the rim.
CAMERAS = {
    "camera_a": Camera(
        blur=0.002, haze=0.0, vignette=0.2, hue=0, saturation=1.0, gamma=1.0, noise=0.01
    ),
    "camera_b": Camera(
        blur=0.006, haze=0.2, vignette=0.6, hue=12, saturation=0.75, gamma=0.75, noise=0.025
    ),
}
STRAY_LIGHT = np.array([0.75, 0.70, 0.65], "float32")

# Colours of the phantoms, as mean photographs of a disc-centred region show them.
FAIR_RETINA, DARK_RETINA = np.array([[0.52, 0.26, 0.10], [0.38, 0.26, 0.13]])
RIM_COLOUR, CUP_COLOUR, CRESCENT_COLOUR = np.array(
    [[0.74, 0.37, 0.18], [0.93, 0.64, 0.34], [0.60, 0.46, 0.26]]
)
ARTERY_ABSORPTION, VEIN_ABSORPTION = np.array([[0.18, 0.50, 0.45], [0.33, 0.60, 0.50]])


def camera(image, seed):
    """A photograph as the phantoms' camera B would have taken it.

    Args:
        image: uint8 array `(H, W, 3)`, RGB.
        seed: seed of the small variation between the pictures of one camera.

    Returns:
        A uint8 array of the image's shape.

    Raises:
        ValueError: if the image is not uint8 RGB.

    Example:
        >>> camera(np.full((32, 32, 3), 100, "uint8"), seed=0).shape
        (32, 32, 3)
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "camera needs a uint8 image of shape (H, W, 3), "
            f"received {image.dtype} of shape {image.shape}."
        )
    scene = image.astype("float32") / 255
    return _photograph(scene, CAMERAS["camera_b"], np.random.default_rng(seed))


def write_fundus(folder, cases_per_domain=48, size=256, seed=0, domains=tuple(CAMERAS)):
    """Write photographs of drawn optic discs, their masks and a case table.

    Some patients give two images, one of each eye; a patient (`group`) is either in training or
    in test, about two thirds of the cases in training.

    Args:
        folder: where to write `images/`, `masks/` and `cases.csv`; made if missing.
        cases_per_domain: number of images of each camera. Default 48.
        size: height and width in pixels. Default 256.
        seed: seed of everything random; equal seeds give equal files. Default 0.
        domains: names of the cameras, out of `"camera_a"` and `"camera_b"`. Default both.

    Returns:
        The path of the case table, with the columns case, domain, split, group, image and mask;
        paths are relative to it.

    Raises:
        ValueError: if a domain is not the name of a camera.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_fundus(folder, cases_per_domain=2, size=64).name
        'cases.csv'
    """
    if unknown := set(domains) - set(CAMERAS):
        raise ValueError(
            f"write_fundus knows the domains {list(CAMERAS)}, received {sorted(unknown)}."
        )
    folder = Path(folder)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for domain in domains:
        # An image's random numbers depend on nothing but the seed, its camera and its number.
        stream = [seed, list(CAMERAS).index(domain)]
        patients = _patients(np.random.default_rng(stream), cases_per_domain)
        for number, (patient, eye, split, pigment) in enumerate(patients):
            rng = np.random.default_rng([*stream, number])
            scene, mask = _fundus(rng, size, eye, pigment)
            photograph = _photograph(scene, CAMERAS[domain], rng)
            group = f"{domain}_{patient:03d}"
            case = f"{group}_{eye}"
            paths = f"images/{case}.png", f"masks/{case}.png"
            for path, pixels in zip(paths, (photograph[..., ::-1], mask), strict=True):
                (folder / path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            rows.append((case, domain, split, group, *paths))
    return _write_table(folder, rows)


def _write_table(folder, rows):
    """The case table comes last and at once: where it is, everything is."""
    unfinished = folder / "cases.csv.part"
    with open(unfinished, "w", newline="") as file:
        csv.writer(file).writerows([("case", "domain", "split", "group", "image", "mask"), *rows])
    os.replace(unfinished, folder / "cases.csv")
    return folder / "cases.csv"


def _patients(rng, cases):
    """Yield (patient, eye, split, pigment of the retina in 0…1) of each case."""
    train = round(cases * 2 / 3)
    patient = 0
    for split, left in (("train", train), ("test", cases - train)):
        while left:
            eyes = [("left", "right"), ("left",), ("right",)][rng.integers(3)][:left]
            pigment = rng.random()
            yield from ((patient, eye, split, pigment) for eye in eyes)
            left -= len(eyes)
            patient += 1


def _photograph(scene, device, rng):
    """A scene `(H, W, 3)` in 0…1 as a camera renders it, uint8; each picture varies a little."""
    variation = rng.normal(1, 0.08, 7)
    blur, haze, vignette, hue, saturation, gamma, noise = variation * astuple(device)
    height, width = scene.shape[:2]
    image = cv2.GaussianBlur(scene, (0, 0), blur * width)
    image = cv2.addWeighted(image, 1 - haze, np.full_like(image, STRAY_LIGHT), haze, 0)
    x = np.linspace(-1, 1, width) - rng.normal(0, 0.15)
    y = np.linspace(-1, 1, height) - rng.normal(0, 0.15)
    image *= (1 - vignette / 2 * (x**2 + y[:, None] ** 2))[..., None].astype("float32")
    image = cv2.transform(image, _colour_matrix(hue, saturation))
    image = cv2.pow(np.clip(image, 0, 1), gamma)
    image += np.float32(noise) * rng.standard_normal(image.shape, "float32")
    return np.rint(255 * np.clip(image, 0, 1)).astype("uint8")


def _colour_matrix(hue, saturation):
    """Rotation by `hue` degrees about the grey axis, times a factor on the distance from it."""
    angle = np.deg2rad(hue)
    grey = np.full((3, 3), 1 / 3)
    quarter_turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return grey + saturation * (np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * quarter_turn)


def _fundus(rng, size, eye, pigment):
    """An eye's disc-centred region: scene `(size, size, 3)` float32 in 0…1, mask uint8.

    Lengths are in half images from the centre, x to the right and y down.
    """
    temporal = -1 if eye == "right" else 1
    x = np.linspace(-1, 1, size, dtype="float32")
    y = x[:, None]

    # Outlines: the disc covers a third of the image, the cup, towards the temple, a third of it.
    disc_radius = np.sqrt(4 / np.pi * np.clip(rng.normal(0.34, 0.03), 0.28, 0.40))
    cup_radius = disc_radius * np.sqrt(np.clip(rng.normal(0.34, 0.05), 0.26, 0.43))
    disc_centre = rng.normal(0, 0.05, 2)
    room = 0.6 * (disc_radius - cup_radius)
    cup_centre = disc_centre + room * np.array([temporal * rng.uniform(0, 0.9), rng.normal(0, 0.2)])
    disc = _distance(rng, x, y, disc_centre, disc_radius)
    cup = _distance(rng, x, y, cup_centre, cup_radius)
    mask = np.where(disc < 1, np.where(cup < 1, CUP, RIM), BACKGROUND).astype("uint8")

    # Tissue: the edge of the disc is rather sharp, that of the cup soft and of varying contrast.
    retina = DARK_RETINA + pigment * (FAIR_RETINA - DARK_RETINA)
    rim = RIM_COLOUR * rng.normal(1, 0.05, 3)
    pallor = rng.uniform(0.5, 1.0) * (CUP_COLOUR - RIM_COLOUR)
    crescent = rng.uniform(0, 0.4) * _inside(disc, 0.1, 1.1) * _inside(-temporal * x, 0.3, 0)
    scene = np.full((size, size, 3), retina, "float32") * (1 + 0.15 * temporal * x[:, None])
    scene = _blend(scene, CRESCENT_COLOUR, crescent)
    scene = _blend(scene, rim, _inside(disc, rng.uniform(0.02, 0.05)))
    scene = _blend(scene, rim + pallor, _inside(cup, rng.uniform(0.2, 0.45)))
    for cells, strength in ((3, 0.08), (9, 0.05), (40, 0.02)):
        scene *= 1 + strength * _clouds(rng, size, cells)[..., None]

    # Vessels enter at the nasal edge of the cup and run over everything.
    root = cup_centre - [temporal * rng.uniform(0.6, 1.0) * cup_radius, 0]
    for calibre, absorption in ((0.026, ARTERY_ABSORPTION), (0.034, VEIN_ABSORPTION)):
        tree = _vessel_tree(rng, size, root, calibre)
        scene *= 1 - tree[..., None] * absorption.astype("float32")
    return scene, mask


def _distance(rng, x, y, centre, radius):
    """Distance from the centre of an uneven upright ellipse, 1 on its outline."""
    (centre_x, centre_y), radius = centre.tolist(), float(radius)  # keeps x and y in float32
    stretch = rng.uniform(1.0, 1.2) ** 0.5
    dx, dy = (x - centre_x) * stretch, (y - centre_y) / stretch
    angle = np.arctan2(dy, dx)
    outline = radius + sum(
        radius * rng.normal(0, 0.03 / n) * np.cos(n * angle + rng.uniform(0, 2 * np.pi))
        for n in (2, 3, 4)
    )
    return np.hypot(dx, dy) / outline


def _inside(distance, softness, edge=1):
    """1 below the edge and 0 above, with a ramp of about the given width."""
    return 0.5 - 0.5 * np.tanh((distance - edge) * (2 / softness))


def _blend(scene, colour, share):
    return scene + share[..., None].astype("float32") * (colour - scene).astype("float32")


def _clouds(rng, size, cells):
    """Smooth noise `(size, size)` with about `cells` spots along each axis."""
    spots = rng.standard_normal((cells, cells), "float32")
    return cv2.resize(spots, (size, size), interpolation=cv2.INTER_CUBIC)


def _vessel_tree(rng, size, root, calibre):
    """Share of each pixel that vessels cover: four arcades, small vessels, and their branches."""
    headings = np.concatenate(
        [
            np.deg2rad([-70, -110, 70, 110]) + rng.normal(0, 0.25, 4),
            rng.uniform(0, 2 * np.pi, 3),
        ]
    )
    widths = calibre * np.concatenate([rng.uniform(0.7, 1.2, 4), rng.uniform(0.25, 0.45, 3)])
    trunks, directions = _walk(rng, root + rng.normal(0, 0.04, (7, 2)), headings)
    parent, place = rng.integers(0, 7, 6), rng.integers(5, 25, 6)
    turns = rng.choice([-1, 1], 6) * rng.uniform(0.4, 0.8, 6)
    twigs, _ = _walk(rng, trunks[parent, place], directions[parent, place] + turns)

    canvas = np.zeros((size, size), "uint8")
    widths = np.concatenate([widths, 0.55 * widths[parent]])
    for path, width in zip(np.concatenate([trunks, twigs]), widths, strict=True):
        points = np.rint((path + 1) * (size / 2) * 16).astype("int32")  # 4 bits after the point
        for start, taper in ((0, 1.0), (10, 0.85), (20, 0.7), (30, 0.55)):
            thickness = max(1, round(taper * width * size))
            cv2.polylines(
                canvas, [points[start : start + 11]], False, 255, thickness, cv2.LINE_AA, shift=4
            )
    return cv2.GaussianBlur(canvas, (0, 0), 0.004 * size).astype("float32") / 255


def _walk(rng, starts, headings, steps=40, stride=0.05):
    """Paths `(n, steps, 2)` that sway smoothly, and their headings `(n, steps)` in radians."""
    sway = rng.normal(0, 0.07, (len(starts), 6))
    sway = cv2.resize(sway, (steps, len(starts)), interpolation=cv2.INTER_LINEAR)
    headings = headings[:, None] + np.cumsum(sway, axis=1)
    strides = stride * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    return starts[:, None] + np.cumsum(strides, axis=1), headings


def write_oct(folder, subjects=12, scans=6, size=128, seed=0):
    """Write drawn OCT B-scans of the retina with dark pockets of fluid, masks and a case table.

    A subject (`group`) has one retina, of which each scan shows another slice; a third of the scans
    holds no fluid. Two thirds of the subjects are in training, the others in test.

    Args:
        folder: where to write `images/`, `masks/` (1 is fluid) and `cases.csv`; made if missing.
        subjects: number of subjects. Default 12.
        scans: B-scans of each. Default 6.
        size: height and width in pixels. Default 128.
        seed: seed of everything random; equal seeds give equal files. Default 0.

    Returns:
        The path of the case table; paths in it are relative to it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_oct(folder, subjects=2, scans=1, size=32).name
        'cases.csv'
    """
    folder, rows = Path(folder), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for subject in range(subjects):
        layers = np.random.default_rng([seed, subject]).uniform(0.25, 0.8, 7)
        split = "train" if subject < round(subjects * 2 / 3) else "test"
        for scan in range(scans):
            rng = np.random.default_rng([seed, subject, scan])
            image, mask = _bscan(rng, size, layers, pockets=0 if scan % 3 == 2 else 3)
            case = f"oct_{subject:02d}_{scan}"
            paths = f"images/{case}.png", f"masks/{case}.png"
            for path, pixels in zip(paths, (image, mask), strict=True):
                (folder / path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            rows.append((case, "oct_phantom", split, f"subject_{subject:02d}", *paths))
    return _write_table(folder, rows)


def _bscan(rng, size, layers, pockets):
    """A B-scan `(size, size)` uint8 of a retina with these layer intensities, and its mask."""
    x = np.linspace(-1, 1, size, dtype="float32")
    top = 0.3 + 0.05 * rng.normal() + 0.1 * np.exp(-((x - rng.normal(0, 0.2)) ** 2) / 0.05)
    thickness = 0.32 + 0.03 * rng.normal() + 0.03 * np.sin(3 * x + rng.uniform(0, 6))
    depth = (np.linspace(0, 1, size)[:, None] - top) / thickness  # 0 at the top of the retina
    retina = np.interp(depth, np.linspace(0, 1, len(layers)), layers)
    below = 0.75 * np.exp(-4 * np.clip(depth - 1, 0, None))  # bright epithelium, fading choroid
    scene = np.where(depth < 0, 0.06, np.where(depth < 1, retina, below))
    mask = np.zeros((size, size), bool)
    for _ in range(pockets):
        centre, radius = rng.uniform(-0.5, 0.5), rng.uniform(0.08, 0.22)
        height = rng.uniform(0.12, 0.22)
        r = np.hypot((x - centre) / radius, (depth - rng.uniform(0.3, 0.7)) / height)
        scene += (0.08 - scene) * _inside(r, 0.3)
        mask |= r < 1
    scene = cv2.GaussianBlur(scene.astype("float32"), (0, 0), 0.006 * size)
    speckle = rng.gamma(6.0, 1 / 6.0, (size, size)) + 0.02 * rng.standard_normal((size, size))
    return np.rint(255 * np.clip(scene * speckle, 0, 1)).astype("uint8"), mask.astype("uint8")


def write_brain_slices(folder, cases=48, size=128, seed=0):
    """Write grey slices of drawn brains after contrast agent, their tumour masks and a case table.

    A tumour is bright with an uneven outline, some have a dark core; scalp and vessels are bright
    too, and one patient in ten has no tumour. A patient (`group`) gives one to three slices, all in
    one split: an eighth of the cases `labelled`, a quarter `test`, the others `train`.

    Args:
        folder: where to write `images/`, `masks/` and `cases.csv`; made if missing.
        cases: number of slices. Default 48.
        size: height and width in pixels. Default 128.
        seed: seed of everything random; equal seeds give equal files. Default 0.

    Returns:
        The path of the case table. A mask is 255 in the tumour and 0 elsewhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_brain_slices(folder, cases=2, size=64).name
        'cases.csv'
    """
    folder, rows, patient = Path(folder), [], 0
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    counts = {"labelled": round(cases / 8), "test": round(cases / 4)}
    counts["train"] = cases - sum(counts.values())
    for split, left in counts.items():
        while left:
            slices = min(left, int(np.random.default_rng([seed, patient]).integers(1, 4)))
            for level in range(slices):
                image, mask = _brain_slice([seed, patient], level, size)
                case = f"brain_{patient:03d}_{level}"
                paths = f"images/{case}.png", f"masks/{case}.png"
                for path, pixels in zip(paths, (image, mask), strict=True):
                    (folder / path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
                rows.append((case, "brain_phantom", split, f"brain_{patient:03d}", *paths))
            patient, left = patient + 1, left - slices
    return _write_table(folder, rows)


def _brain_slice(patient, level, size):
    """A slice `(size, size)` uint8 and its mask; `level` 0 goes through the middle of the tumour.

    Lengths are in half images from the centre, x to the right and y down.
    """
    rng = np.random.default_rng([*patient, 1])  # equal draws in every slice of a patient
    noise = np.random.default_rng([*patient, 2, level])
    x = np.linspace(-1, 1, size, dtype="float32")
    y = x[:, None]

    # Head: a bright scalp, the dark skull, folded grey and white matter, two dark ventricles.
    width, height = rng.uniform(0.60, 0.70), rng.uniform(0.74, 0.84)
    head = np.hypot(x / width, y / height) * (1 + 0.02 * level)
    scene = 0.75 * _inside(head, 0.04, 1.22) - 0.65 * _inside(head, 0.04, 1.14)
    matter = 0.28 + 0.05 * np.tanh(3 * _clouds(rng, size, 14)) + 0.03 * _clouds(rng, size, 5)
    scene += matter * _inside(head, 0.05)
    for side in (-1, 1):
        ventricle = np.hypot((x - 0.1 * side) / 0.07, (y - 0.02) / (0.26 - 0.03 * level))
        scene -= 0.2 * _inside(ventricle, 0.4)
    for place_x, place_y in rng.uniform(-0.6, 0.6, (5, 2)) * (width, height):  # vessels
        scene += 0.3 * _inside(np.hypot(x - place_x, y - place_y) / 0.025, 0.5)

    # Tumour: smaller from level to level; its edge is rather sharp, its uptake uneven.
    angle, away = rng.uniform(0, 2 * np.pi), 0.45 * rng.random() ** 0.5
    centre = away * np.array([np.cos(angle), np.sin(angle)])
    radius = rng.uniform(0.12, 0.26) * (1 - 0.12 * level)
    tumour = _distance(rng, x, y, centre, radius)
    uptake = rng.uniform(0.65, 0.9) + 0.06 * _clouds(rng, size, 9)
    if rng.random() < 0.3:
        uptake -= 0.4 * _inside(tumour, 0.2, rng.uniform(0.4, 0.6))
    if rng.random() < 0.1:
        tumour = np.full_like(tumour, np.inf)
    scene += _inside(tumour, 0.12) * (uptake - scene)

    scene = np.clip(scene, 0, 1) * (1 + 0.1 * _clouds(noise, size, 3))
    scene = cv2.GaussianBlur(scene.astype("float32"), (0, 0), 0.005 * size)
    scene += 0.02 * noise.standard_normal(scene.shape, "float32")
    return np.rint(255 * np.clip(scene, 0, 1)).astype("uint8"), 255 * (tumour < 1).astype("uint8")
