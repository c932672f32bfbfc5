"""The square that SAM-like networks see: the image at its top left, nothing beside and below it."""

import numpy as np

from keras_meduda.data._cv2 import cv2


def letter_box(rgb, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture resized to a longest side, not yet padded, and the scale of its axes.

    Args:
        rgb: `(H, W, 3)`.
        size: longest side after, in pixels.

    Returns:
        `(h, w, 3)` float32 by bilinear interpolation, and the factors `(w / W, h / H)`.

    Example:
        >>> resized, scale = letter_box(np.zeros((50, 100, 3), "uint8"), 64)
        >>> resized.shape, scale.tolist()
        ((32, 64, 3), [0.64, 0.64])
    """
    height, width = (max(1, int(size * n / max(rgb.shape[:2]) + 0.5)) for n in rgb.shape[:2])
    resized = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    scale = np.array([width / rgb.shape[1], height / rgb.shape[0]])
    return resized.astype("float32"), scale


def undo_letter_box(array, shape) -> np.ndarray:
    """The part of a letter-boxed square that holds the image.

    Args:
        array: `(n, n)` or `(n, n, channels)`, in any resolution of the square.
        shape: `(height, width)` of the image.

    Returns:
        The first round(n · height / longer side) rows and round(n · width / longer side) columns.

    Example:
        >>> undo_letter_box(np.zeros((256, 256)), (300, 600)).shape
        (128, 256)
    """
    rows, columns = (max(1, round(len(array) * side / max(shape))) for side in shape)
    return array[:rows, :columns]
