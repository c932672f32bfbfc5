"""Channels and depth of an image: from what a file holds to what a network takes."""

import numpy as np


def to_channels(image, channels: int) -> np.ndarray:
    """A picture with as many channels: grey is repeated, alpha dropped, colour made grey.

    The second of two channels is dropped only where it is the same everywhere, as an opaque alpha
    is: it may as well be a contrast.

    Args:
        image: `(*spatial, channels found)`; those of a volume are contrasts, of which none is lost
            and none stands for another.
        channels: number wanted.

    Raises:
        ValueError: any other number.

    Example:
        >>> to_channels(np.zeros((4, 6, 1)), 3).shape
        (4, 6, 3)
    """
    found = image.shape[-1]
    if found == channels:
        return image
    picture = image.ndim == 3
    if picture and (found == 4 or found == 2 and (image[..., 1] == image[0, 0, 1]).all()):
        return to_channels(image[..., :-1], channels)
    if picture and found == 1:
        return np.repeat(image, channels, axis=-1)
    if picture and found == 3 and channels == 1:
        grey = (image @ np.array([0.299, 0.587, 0.114], "float32"))[..., None]
        return grey if image.dtype.kind == "f" else np.rint(grey).astype(image.dtype)
    raise ValueError(f"image has {found} channels, the preprocessing expects {channels}.")


def to_8bit(image) -> np.ndarray:
    """An image in 0…255: 16-bit and float ones are scaled from their own range, 8-bit ones stay.

    Example:
        >>> to_8bit(np.array([1000, 3000, 5000])).tolist()
        [0.0, 127.5, 255.0]
    """
    if image.dtype == np.uint8:
        return image
    image = image.astype("float32")
    low, high = image.min(), image.max()
    return (image - low) * (255.0 / (high - low)) if high > low else np.zeros_like(image)
