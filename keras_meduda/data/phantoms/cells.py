"""Drawn nuclei of cells under two fluorescence microscopes: few in one domain, many in the other.

Beside the look, the share of the image that is nucleus differs (a label shift): what style twins
must not be misled by.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.phantoms.drawing import clouds, distance, inside, write_table


@dataclass(frozen=True)
class Microscope:
    """How a domain looks.

    Args:
        share: of the image that nuclei cover, in the mean.
        dark: grey value of the background, in 0…1.
        bright: that of nuclei.
        blur: standard deviation of the blur, in image widths.
        noise: standard deviation of the noise.
    """

    share: float
    dark: float
    bright: float
    blur: float
    noise: float


MICROSCOPES = {
    "microscope_a": Microscope(share=0.07, dark=0.05, bright=0.5, blur=0.003, noise=0.01),
    "microscope_b": Microscope(share=0.24, dark=0.12, bright=0.3, blur=0.012, noise=0.025),
}


def write_cells(folder, cases_per_domain=48, size=128, seed=0):
    """Write pictures of drawn nuclei, their masks and a case table; every case is a group.

    Args:
        folder: where to write `images/`, `masks/` and `cases.csv`; made if missing.
        cases_per_domain: pictures of each microscope, two thirds of them in training. Default 48.
        size: height and width in pixels. Default 128.
        seed: seed of everything random; equal seeds give equal files. Default 0.

    Returns:
        The path of the case table. A mask is 255 in nuclei and 0 elsewhere.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_cells(folder, cases_per_domain=2, size=64).name
        'cases.csv'
    """
    folder, rows = Path(folder), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for stream, (domain, microscope) in enumerate(MICROSCOPES.items()):
        for number in range(cases_per_domain):
            image, mask = _cells(np.random.default_rng([seed, stream, number]), size, microscope)
            case = f"{domain}_{number:03d}"
            paths = f"images/{case}.png", f"masks/{case}.png"
            for path, pixels in zip(paths, (image, mask), strict=True):
                (folder / path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            split = "train" if number < round(cases_per_domain * 2 / 3) else "test"
            rows.append((case, domain, split, case, *paths))
    return write_table(folder, rows)


def _cells(rng, size, microscope):
    """A picture `(size, size)` uint8 and its mask; lengths are in half images from the centre."""
    x = np.linspace(-1, 1, size, dtype="float32")
    y = x[:, None]
    scene = np.zeros((size, size), "float32")
    mask = np.zeros((size, size), bool)
    wanted = microscope.share * rng.uniform(0.6, 1.4)
    for _ in range(400):  # draws; some fall upon a nucleus that is there
        if mask.mean() >= wanted:
            break
        nucleus = distance(rng, x, y, rng.uniform(-1, 1, 2), rng.uniform(0.06, 0.11))
        if (mask & (nucleus < 1.15)).any():
            continue
        mask |= nucleus < 1
        scene = np.maximum(scene, rng.uniform(0.5, 1.0) * inside(nucleus, 0.15))
    scene *= 1 + 0.15 * clouds(rng, size, 24)
    scene = microscope.dark * (1 + 0.3 * clouds(rng, size, 3)) + microscope.bright * scene
    scene = cv2.GaussianBlur(scene.astype("float32"), (0, 0), microscope.blur * size)
    scene += microscope.noise * rng.standard_normal(scene.shape, "float32")
    return np.rint(255 * np.clip(scene, 0, 1)).astype("uint8"), 255 * mask.astype("uint8")
