"""Resizing, cropping and padding in any number of dimensions, and the way back."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # whose modules load when they are used

# Added before rounding down to whole pixels. Sizes and spacings are simple numbers, so that ties
# are common; here and in an exported graph, whose sums end in another bit, they go the same way.
TIE = 1e-3


@dataclass(frozen=True)
class Placement:
    """Where the network's grid lies in a case's own: the way back of a prediction.

    Args:
        shape: spatial shape of the case.
        grid: the same in the network's order of axes, once resampled.
        start: first pixel of the network's input in that grid; negative where it is padded.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    start: tuple[int, ...]


@lru_cache(maxsize=16)  # of a photograph some 5 MB each
def interpolation_matrix(
    size_in: int, size_out: int, align_corners: bool = False, antialias: bool = False
) -> np.ndarray:
    """The matrix `(size_out, size_in)` of linear interpolation along one axis.

    Half-pixel centres: src = (dst + ½)·in/out − ½, clamped at the borders; with `align_corners`
    src = dst·(in − 1)/(out − 1). `antialias` widens the triangle by in/out when shrinking, as
    `tf.image.resize(antialias=True)` and Pillow do; without it shrinking skips pixels, as
    PyTorch's `interpolate` does.

    Args:
        size_in: length of the axis before.
        size_out: length of the axis after.
        align_corners: whether the corner pixels' centres coincide. Default `False`.
        antialias: whether shrinking averages. Default `False`.

    Returns:
        float32 array whose rows sum to 1, read-only because it is shared.

    Example:
        >>> interpolation_matrix(2, 4).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    target = np.arange(size_out)
    if align_corners:
        source = target * ((size_in - 1) / (size_out - 1) if size_out > 1 else 0.0)
    else:
        source = (target + 0.5) * (size_in / size_out) - 0.5
    width = max(1.0, size_in / size_out) if antialias else 1.0
    if not antialias:
        source = np.clip(source, 0, size_in - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size_in) - source[:, None]) / width)
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype("float32")
    matrix.flags.writeable = False
    return matrix


def resize(image, size, linear: bool = True) -> np.ndarray:
    """An image at another size: linear (antialiased when shrinking) or nearest.

    Args:
        image: array `(*spatial, channels)`; with `linear=False` also `(*spatial)`.
        size: spatial size after.
        linear: `False` takes the nearest pixel, for masks. Default `True`.

    Returns:
        float32 array if `linear`, else one of the image's own dtype.

    Raises:
        ValueError: the image and the size differ in rank.

    Example:
        >>> resize(np.ones((8, 8, 3)), (4, 6)).shape
        (4, 6, 3)
    """
    if image.ndim - len(size) not in ((1,) if linear else (0, 1)):
        raise ValueError(
            f"resize: received an image of shape {image.shape} and the size "
            f"{tuple(size)}; expected {len(size)} spatial axes, then channels."
        )
    for axis, (size_in, size_out) in enumerate(zip(image.shape, size, strict=False)):
        if size_in == size_out:
            continue
        if linear:
            first = np.moveaxis(image.astype("float32", copy=False), axis, 0)
            columns = np.ascontiguousarray(first.reshape(size_in, -1))
            moved = _sparse_matrix(size_in, size_out) @ columns
            image = np.moveaxis(moved.reshape(size_out, *first.shape[1:]), 0, axis)
        else:
            index = ((np.arange(size_out) + 0.5) * (size_in / size_out)).astype(int)
            image = np.take(image, index, axis=axis)
    return np.ascontiguousarray(image, "float32" if linear else None)


@lru_cache(maxsize=16)  # of a photograph some 5 MB each
def _sparse_matrix(size_in, size_out):
    """The antialiased matrix without its zeros: some 2·in/out + 1 weights a row."""
    return scipy.sparse.csr_matrix(interpolation_matrix(size_in, size_out, antialias=True))


def resampled_size(size, spacing, target) -> tuple[int, ...]:
    """Size of an image at another spacing over the same field of view, round(n · s / s′) ≥ 1.

    Args:
        size: pixels or voxels along each axis.
        spacing: their distances, mm.
        target: the distances wanted, mm.

    Example:
        >>> resampled_size((256, 256, 32), (0.1, 0.1, 0.5), (0.2, 0.2, 0.5))
        (128, 128, 32)
    """
    sizes = np.array(size) * np.array(spacing, "float64") / np.array(target, "float64")
    return tuple(np.maximum(1, np.floor(sizes + 0.5 + TIE)).astype(int).tolist())


def foreground_centre(foreground) -> tuple[float, ...] | None:
    """Centre of the box around all foreground, in pixels from the array's border; `None` if empty.

    Args:
        foreground: boolean `(*spatial)`.

    Example:
        >>> foreground_centre(np.array([[False, True, True], [False, False, True]]))
        (1.0, 2.0)
    """
    axes = range(foreground.ndim)
    places = [np.flatnonzero(foreground.any(tuple(b for b in axes if b != a))) for a in axes]
    if not len(places[0]):
        return None
    return tuple(float(place[0] + place[-1] + 1) / 2 for place in places)


def window_start(size, window, centre=None) -> tuple[int, ...]:
    """First pixel of a window in an image; negative where the image is the smaller and is padded.

    Along a larger axis of the image the window lies around `centre`, moved inside where it would
    leave the image; along a smaller one the image lies in the middle of the window.

    Args:
        size: of the image.
        window: size of the window.
        centre: in pixels from the image's border. Default: the image's own.

    Example:
        >>> window_start((240, 240, 155), (140, 170, 160))
        (50, 35, -3)
        >>> window_start((240, 240, 155), (140, 170, 160), centre=(100, 220, 10))
        (30, 70, -3)
    """
    starts = []
    for axis, (n, side) in enumerate(zip(size, window, strict=True)):
        middle = n / 2 if centre is None or n <= side else centre[axis]
        start = int(np.floor(middle - side / 2 + TIE))
        starts.append(min(max(start, 0), n - side) if n > side else start)
    return tuple(starts)


def crop_or_pad(array, start, size, fill=0) -> np.ndarray:
    """The window of an array that begins at `start`, which may reach over the array's border.

    Args:
        array: `(*spatial)` or `(*spatial, channels)`.
        start: first pixel of the window along each spatial axis; may be negative.
        size: of the window.
        fill: value outside of the array, one or one a channel. Default 0.

    Returns:
        `(*size)` or `(*size, channels)`; the array itself where that is the window.

    Example:
        >>> crop_or_pad(np.arange(5), (-1,), (3,)).tolist()
        [0, 0, 1]
    """
    return paste(array, tuple(-s for s in start), size, fill)


def paste(part, start, size, fill=0) -> np.ndarray:
    """An array of the given size with `part` at `start`; what lies outside of it is cut off.

    Undoes `crop_or_pad` inside the window: the same `start`, and the size of the whole array.

    Args:
        part: `(*spatial)` or `(*spatial, channels)`.
        start: where the part begins along each spatial axis; may be negative.
        size: spatial size of the result.
        fill: value around the part, one or one a channel. Default 0.

    Returns:
        `(*size)` or `(*size, channels)`; the part itself where it fills it.

    Example:
        >>> paste(np.array([7, 8]), (1,), (4,)).tolist()
        [0, 7, 8, 0]
    """
    rank = len(size)
    if part.shape[:rank] == tuple(size) and not any(start):
        return part
    whole = np.empty((*size, *part.shape[rank:]), part.dtype)
    whole[...] = fill
    here, there = [], []
    for first, length, full in zip(start, part.shape, size, strict=False):
        a = min(max(first, 0), full)
        b = max(min(first + length, full), a)
        here.append(slice(a, b))
        there.append(slice(a - first, b - first))
    whole[tuple(here)] = part[tuple(there)]
    return whole
