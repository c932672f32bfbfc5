"""Drawn slices of brains after contrast agent, with a tumour."""

from pathlib import Path

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.phantoms.drawing import clouds, distance, inside, write_table


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
    return write_table(folder, rows)


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
    scene = 0.75 * inside(head, 0.04, 1.22) - 0.65 * inside(head, 0.04, 1.14)
    matter = 0.28 + 0.05 * np.tanh(3 * clouds(rng, size, 14)) + 0.03 * clouds(rng, size, 5)
    scene += matter * inside(head, 0.05)
    for side in (-1, 1):
        ventricle = np.hypot((x - 0.1 * side) / 0.07, (y - 0.02) / (0.26 - 0.03 * level))
        scene -= 0.2 * inside(ventricle, 0.4)
    for place_x, place_y in rng.uniform(-0.6, 0.6, (5, 2)) * (width, height):  # vessels
        scene += 0.3 * inside(np.hypot(x - place_x, y - place_y) / 0.025, 0.5)

    # Tumour: smaller from level to level; its edge is rather sharp, its uptake uneven.
    angle, away = rng.uniform(0, 2 * np.pi), 0.45 * rng.random() ** 0.5
    centre = away * np.array([np.cos(angle), np.sin(angle)])
    radius = rng.uniform(0.12, 0.26) * (1 - 0.12 * level)
    tumour = distance(rng, x, y, centre, radius)
    uptake = rng.uniform(0.65, 0.9) + 0.06 * clouds(rng, size, 9)
    if rng.random() < 0.3:
        uptake -= 0.4 * inside(tumour, 0.2, rng.uniform(0.4, 0.6))
    if rng.random() < 0.1:
        tumour = np.full_like(tumour, np.inf)
    scene += inside(tumour, 0.12) * (uptake - scene)

    scene = np.clip(scene, 0, 1) * (1 + 0.1 * clouds(noise, size, 3))
    scene = cv2.GaussianBlur(scene.astype("float32"), (0, 0), 0.005 * size)
    scene += 0.02 * noise.standard_normal(scene.shape, "float32")
    return np.rint(255 * np.clip(scene, 0, 1)).astype("uint8"), 255 * (tumour < 1).astype("uint8")
