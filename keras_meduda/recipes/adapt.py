"""Adaptation to another scanner as this library recommends it: the command `meduda adapt`.

Photographs start from ImageNet's weights where they can be had. They are adapted as by aerunet_kd:
the teacher sees the target as it is, the source is trained on in the target's colours. The
divergence must not undo what the source teaches, and the teacher follows slowly. Volumes have no
teacher unless --mode names one: the network goes on with source patches whose grey levels go
through random tables. How far to go from source only is decided at the end, without target labels.

Time and score on 2 cores: see aerunet_kd; docs/adapt.md says on which shifts it gained and lost.

meduda adapt --cases cases.csv --source-domain zeiss --target-domain canon --out runs/canon
meduda adapt --smoke                                                            (phantoms)
meduda adapt --run runs/zeiss --images canon/ --out runs/canon     (source-free: a finished run)
"""

from dataclasses import dataclass, replace

from keras_meduda.experiment.options import Count, Network, NetworkFlags, Share
from keras_meduda.recipes import aerunet_kd
from keras_meduda.recipes.aerunet_kd import Mode


@dataclass(frozen=True, kw_only=True)
class Flags(NetworkFlags, aerunet_kd.Flags):
    """Adaptation to another scanner."""

    network: Network = "AERUNet"
    """One of km.models."""
    filters: tuple[Count, ...] | None = None
    """Width of each level; default: 16 32 64 128 256 of AERUNet, its own of another network."""
    mode: Mode | None = None
    """What the divergence compares (see KLDistillation); by default strong in photographs. Volumes
    have no teacher, and no divergence, unless this names one."""
    ema: Share | None = 0.999
    """Decay of the averaging teacher; None keeps it frozen."""
    weights: str | None = None
    """Of the backbone: imagenet (a download), a file in keras.applications' form, a file of the
    whole network, or random. Default: photographs start from ImageNet's MobileNetV2 where Keras has
    its weights or can download them, else from random ones."""


def data(flags):
    """The cases of the flags, or phantoms."""
    return aerunet_kd.data(flags)


def recipe(flags, data):
    """Source only, adapted and, on request, the oracle."""
    from keras_meduda.data.augment import RandomTable
    from keras_meduda.data.cases import are_volumes
    from keras_meduda.experiment.networks import builder_of
    from keras_meduda.experiment.recipe import supervised
    from keras_meduda.experiment.start import from_imagenet

    volumes = are_volumes(data.parts["source"])
    flags = from_imagenet(flags, volumes)
    filters = flags.filters or (aerunet_kd.Flags.filters if flags.network == "AERUNet" else None)
    network = builder_of(
        flags.network, 3 if volumes else 2, flags.smoke, backbone=flags.backbone,
        weights=flags.weights, filters=filters,
    )  # fmt: skip
    ours = aerunet_kd.recipe(flags, data, network)
    adapted = ours.stages["adapted"]
    if volumes and flags.mode is None:
        # A teacher of another contrast is confidently wrong, so there is none
        # (benchmarks/shifts_notes.md). Twins by bands are left to the guard, which judges by them.
        adapted = replace(
            adapted, method=supervised, uses=("source",), source_styles=0, target_styles=0,
            batches={"source_photometry": RandomTable()},
        )  # fmt: skip
    else:
        mode = aerunet_kd.mode_of(flags, volumes)
        adapted = replace(adapted, method=aerunet_kd.distillation(flags, mode, guard=not volumes))
    return replace(ours, stages={**ours.stages, "adapted": adapted})
