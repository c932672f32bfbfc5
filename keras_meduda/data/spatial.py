"""Resizing in any number of dimensions, as one small matrix an axis."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
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
            matrix = interpolation_matrix(size_in, size_out, antialias=True)
            moved = np.tensordot(matrix, image.astype("float32", copy=False), axes=(1, axis))
            image = np.moveaxis(moved, 0, axis)
        else:
            index = ((np.arange(size_out) + 0.5) * (size_in / size_out)).astype(int)
            image = np.take(image, index, axis=axis)
    return np.ascontiguousarray(image.astype("float32") if linear else image)
