"""A network by its name on the command line."""

import inspect
from functools import partial

from keras_meduda import models
from keras_meduda.experiment.options import nearest


def builder_of(name: str, rank: int, small: bool, **arguments):
    """The builder of a network of `km.models`, with arguments.

    Args:
        name: such as `"AERUNet"`.
        rank: number of spatial axes of the images.
        small: whether a small network of the kind is wanted, for a first try.
        arguments: of the builder, by the name of their flag; `None` is not given.

    Raises:
        ValueError: no network of that name, or none that takes such images or arguments; which do.

    Example:
        >>> builder_of("RatLesNetV2", rank=2, small=False)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: RatLesNetV2 takes no pictures; AERUNet, DeepLabV3Plus, DynUNet, UNETR, ... do.
    """
    builders = {n: getattr(models, n) for n in models.__all__}
    builders = {n: builder for n, builder in builders.items() if hasattr(builder, "needs")}
    if name not in builders:
        raise ValueError(f"--network {name}: no such network; {nearest(name, sorted(builders))}")
    fits = sorted(n for n, builder in builders.items() if rank in builder.needs.ranks)
    if name not in fits:
        kind = "pictures" if rank == 2 else "volumes"
        raise ValueError(f"{name} takes no {kind}; {', '.join(fits)} do.")
    builder = builders[name]
    arguments = {k: v for k, v in arguments.items() if v is not None}
    for argument in arguments:
        takers = [n for n in fits if argument in inspect.signature(builders[n]).parameters]
        if name not in takers:
            flag = argument.replace("_", "-")
            raise ValueError(f"{name} takes no --{flag}; {', '.join(takers)} do.")
    wide = partial(builder, **arguments)
    return partial(wide, **builder.needs.small) if small else wide


def for_voxels(build, spacing):
    """A builder for voxels of this spacing, where its network follows them, as DynUNet does.

    Args:
        build: builder of a network, `functools.partial` of one of `km.models`.
        spacing: voxels in mm along the network's axes; `None` for pictures.
    """
    return partial(build, spacing=spacing) if spacing and build.func.needs.spacing else build
