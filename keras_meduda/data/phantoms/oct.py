"""Drawn OCT B-scans of the retina with pockets of fluid."""

from pathlib import Path

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.phantoms.drawing import inside, write_table


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
    return write_table(folder, rows)


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
        scene += (0.08 - scene) * inside(r, 0.3)
        mask |= r < 1
    scene = cv2.GaussianBlur(scene.astype("float32"), (0, 0), 0.006 * size)
    speckle = rng.gamma(6.0, 1 / 6.0, (size, size)) + 0.02 * rng.standard_normal((size, size))
    return np.rint(255 * np.clip(scene * speckle, 0, 1)).astype("uint8"), mask.astype("uint8")
