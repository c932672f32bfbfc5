"""Drawn optic discs, photographed by two cameras.

Anatomy and camera are apart: both domains draw their eyes from one distribution, so that nothing
but the picture differs between them (a covariate shift without a label shift). The camera of the
second domain can also take a real photograph.
"""

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.phantoms.drawing import blend, clouds, distance, inside, write_table

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
    return write_table(folder, rows)


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
    disc = distance(rng, x, y, disc_centre, disc_radius)
    cup = distance(rng, x, y, cup_centre, cup_radius)
    mask = np.where(disc < 1, np.where(cup < 1, CUP, RIM), BACKGROUND).astype("uint8")

    # Tissue: the edge of the disc is rather sharp, that of the cup soft and of varying contrast.
    retina = DARK_RETINA + pigment * (FAIR_RETINA - DARK_RETINA)
    rim = RIM_COLOUR * rng.normal(1, 0.05, 3)
    pallor = rng.uniform(0.5, 1.0) * (CUP_COLOUR - RIM_COLOUR)
    crescent = rng.uniform(0, 0.4) * inside(disc, 0.1, 1.1) * inside(-temporal * x, 0.3, 0)
    scene = np.full((size, size, 3), retina, "float32") * (1 + 0.15 * temporal * x[:, None])
    scene = blend(scene, CRESCENT_COLOUR, crescent)
    scene = blend(scene, rim, inside(disc, rng.uniform(0.02, 0.05)))
    scene = blend(scene, rim + pallor, inside(cup, rng.uniform(0.2, 0.45)))
    for cells, strength in ((3, 0.08), (9, 0.05), (40, 0.02)):
        scene *= 1 + strength * clouds(rng, size, cells)[..., None]

    # Vessels enter at the nasal edge of the cup and run over everything.
    root = cup_centre - [temporal * rng.uniform(0.6, 1.0) * cup_radius, 0]
    for calibre, absorption in ((0.026, ARTERY_ABSORPTION), (0.034, VEIN_ABSORPTION)):
        tree = _vessel_tree(rng, size, root, calibre)
        scene *= 1 - tree[..., None] * absorption.astype("float32")
    return scene, mask


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
