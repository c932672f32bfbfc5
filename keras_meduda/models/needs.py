"""What a network's builder asks of the images that it takes, kept on the builder itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Needs:
    """What a builder asks for, its attribute `needs`.

    Args:
        ranks: numbers of spatial axes. Default 2 and 3.
        multiple: of which each side of the image is one. Default 1.
        axes: `"XYZ"`, or `"slices"`: the axis across the slices first. Default `"XYZ"`.
        spacing: whether the builder takes `spacing=`, voxels in mm. Default `False`.
        small: arguments that make a small network of the same kind, for a first try. Default none.

    Example:
        >>> import keras_meduda as km
        >>> km.models.UNETR.needs.multiple
        16
    """

    ranks: tuple[int, ...] = (2, 3)
    multiple: int = 1
    axes: str = "XYZ"
    spacing: bool = False
    small: dict[str, Any] = field(default_factory=dict)


def needs(**of) -> Callable:
    """Decorator of a network's builder, with the arguments of `Needs`."""

    def note(builder):
        builder.needs = Needs(**of)
        return builder

    return note
