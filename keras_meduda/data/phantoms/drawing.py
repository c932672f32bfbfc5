"""What the phantoms share: uneven outlines, soft edges, smooth noise, the case table."""

import csv

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.cache import made
from keras_meduda.data.io import replacing


def drawn(write, out, *settings):
    """The case table of phantoms in a run folder, drawn unless it is there.

    Args:
        write: one of the functions that write phantoms, such as `write_oct`.
        out: the run folder.
        settings: all that `write` takes after the folder up to the seed; they name the folder, so
            that other ones draw others.
    """
    name = "_".join(map(str, (write.__name__.removeprefix("write_"), *np.hstack(settings))))
    table = out / "phantoms" / name / "cases.csv"
    return made(table, name, lambda: write(table.parent, *settings))


def write_table(folder, rows):
    """The case table comes last and at once: where it is, everything is."""
    with replacing(folder / "cases.csv") as unfinished, open(unfinished, "w", newline="") as file:
        csv.writer(file).writerows([("case", "domain", "split", "group", "image", "mask"), *rows])
    return folder / "cases.csv"


def distance(rng, x, y, centre, radius):
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


def inside(distance, softness, edge=1):
    """1 below the edge and 0 above, with a ramp of about the given width."""
    return 0.5 - 0.5 * np.tanh((distance - edge) * (2 / softness))


def blend(scene, colour, share):
    """A scene `(H, W, 3)` with a share of each pixel in another colour."""
    return scene + share[..., None].astype("float32") * (colour - scene).astype("float32")


def clouds(rng, size, cells):
    """Smooth noise `(size, size)` with about `cells` spots along each axis."""
    spots = rng.standard_normal((cells, cells), "float32")
    return cv2.resize(spots, (size, size), interpolation=cv2.INTER_CUBIC)
