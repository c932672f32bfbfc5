"""Values of mask files: whole numbers, and colours as numbers beyond those of 16 bits."""

import re
from numbers import Integral

import numpy as np

COLOUR = 1 << 24  # a mask's colour is the number COLOUR + 0xRRGGBB; a grey one is its grey value


def mask_values(name, values):
    """Values as a tuple of whole numbers that a mask file can hold, and of colours.

    A grey one, such as `#808080`, is its number.
    """
    values = (values,) if str(values).startswith("#") else values
    found = tuple(values) if np.iterable(values) else ()
    if not found or not all(
        isinstance(v, Integral)
        and 0 <= v < 65536
        or isinstance(v, str)
        and re.fullmatch("#[0-9a-fA-F]{6}", v)
        for v in found
    ):
        raise ValueError(
            f"Task: mask values {values!r} for {name}; expected whole numbers in "
            "0…65535, such as (255,), or colours such as ('#ff0000',)."
        )
    numbers = (number_of(v) for v in found)
    return tuple(v.lower() if n >= COLOUR else int(n) for v, n in zip(found, numbers, strict=True))


def value_of(text: str) -> int | str:
    """A mask value as a person types it.

    Example:
        >>> value_of("255"), value_of("#ff0000")
        (255, '#ff0000')
    """
    return text if text.startswith("#") else int(text)


def number_of(value):
    """The number of a mask value: of a colour 2²⁴ + 0xRRGGBB, of a grey one its grey value."""
    if not isinstance(value, str):
        return value
    rgb = int(value[1:], 16)
    return rgb & 255 if rgb % 0x10101 == 0 else COLOUR + rgb


def distances(present, declared):
    """Of every present value from every declared one; of colours the largest of three."""
    if declared.max() < COLOUR:
        return np.abs(present[:, None].astype("float64") - declared)

    def rgb(values):
        split = (values[:, None] >> np.array([16, 8, 0])) & 255
        return np.where(values[:, None] < COLOUR, values[:, None], split).astype("float64")

    return np.abs(rgb(present.astype("int64"))[:, None] - rgb(declared)).max(axis=-1)
