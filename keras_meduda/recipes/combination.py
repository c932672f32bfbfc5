"""Any method on any network, on photographs or volumes of two domains.

The network learns on the labelled domain first (source only) and is adapted by the method to the
other; --method supervised ends with source only. docs/combinations.md tells what trains with what.

Time and score: those of the method's own recipe, where the network is its own.

meduda train --method kl_distillation --network UNet --cases cases.csv --source-domain zeiss \
    --target-domain canon
meduda train --method mean_teacher --network RatLesNetV2 --volumes --smoke
meduda train --method supervised --network DynUNet --source-dataset brats --source-root BRATS \
    --source-domain t2 --target-domain flair
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from keras_meduda.experiment.options import Count, NetworkFlags
from keras_meduda.experiment.shift import GridFlags, ShiftFlags, brains, discs


@dataclass(frozen=True, kw_only=True)
class Flags(NetworkFlags, GridFlags, ShiftFlags):
    """Any method on any network."""

    method: Literal[
        "supervised", "kl_distillation", "masked_consistency", "category_regularization", "beal",
        "posal", "mean_teacher", "foundation_distillation",
    ]  # fmt: skip
    """How the network is adapted; supervised: not at all."""
    filters: tuple[Count, ...] | None = None
    """Width of each level, for networks that take it; default: the network's own."""
    augment_source: bool = True
    """Recolour source images, and give half of them the target's style, while adapting."""
    volumes: bool = False
    """Without data: drawn brains, T2 to FLAIR, instead of drawn optic discs."""


def data(flags):
    """The cases of the flags, or phantoms."""
    from keras_meduda.experiment.domains import read

    return read(flags, partial(brains if flags.volumes else discs, flags))


def recipe(flags, data):
    """Source only, adapted by the method, and, on request, the oracle."""
    from keras_meduda.data.cases import are_volumes
    from keras_meduda.experiment.networks import builder_of, for_voxels
    from keras_meduda.experiment.recipe import Recipe, Stage, adam, supervised
    from keras_meduda.experiment.teaching import by_source_only
    from keras_meduda.recipes import uda_clr

    rank = 3 if are_volumes(data.parts["source"]) else 2
    build = builder_of(
        flags.network, rank, flags.smoke, filters=flags.filters, backbone=flags.backbone,
        weights=flags.weights,
    )  # fmt: skip
    grid = flags.grid(data, build.func.needs, normalise="zero_one", intensity=("clahe",))
    compile_alone = adam(flags.learning_rate, flags.encoder_rate)
    alone = Stage(supervised, compile=compile_alone, prepare=flags.prepare)
    settings = flags.settings(grid)
    if flags.method == "supervised":
        stages = {"source_only": alone}
    else:
        regularises = flags.method in regularisation()
        compile_with = uda_clr.compile_with if regularises else adam
        taught = flags.method == "foundation_distillation"
        adapted = Stage(
            partial(_method, flags.method),
            uses=("source", "taught" if taught else "target"),
            start="source_only",
            compile=compile_with(flags.adapt_learning_rate, flags.encoder_rate),
            prepare=flags.prepare,
            **flags.styled_source(grid),
        )
        stages = flags.stages(alone, adapted)
        settings["batches"] = {"boundary": regularises, **settings["batches"]}
    return Recipe(
        title=f"{flags.method} on {flags.network}: {data.route}",
        network=for_voxels(build, grid.spacing),
        stages=stages,
        teacher=by_source_only,
        **settings,
    )


def regularisation():
    """Settings of `CategoryRegularization` by the name of the method that they make."""
    from keras_meduda.methods import category_regularization as clr

    named = {"beal": clr.BEAL, "posal": clr.POSAL, "mean_teacher": clr.MEAN_TEACHER}
    return {"category_regularization": {}, **named}


def _method(name, network, batches):
    """The method of that name around a network."""
    import keras_meduda as km

    overlapping = batches.task.overlapping
    if name == "kl_distillation":
        return km.methods.KLDistillation(network, overlapping, mode="strong", ema=0.99)
    if name == "masked_consistency":
        return km.methods.MaskedConsistency(network, overlapping)
    if name == "foundation_distillation":
        teacher = batches.target.teacher
        width = teacher.feature_shape[-1] if teacher.features else None
        return km.methods.FoundationDistillation(
            network, width, dice=1.0, overlapping=overlapping
        )
    return km.methods.CategoryRegularization(network, overlapping, **regularisation()[name])
