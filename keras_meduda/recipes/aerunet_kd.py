"""AERUNet with KD-UDA: train on a labelled scanner, adapt to an unlabelled one by KL distillation.

Paper: KD-UDA with AERUNet (thesis, Ashraf Ul Alam). The source is trained on in the target's
histogram as well (unless --no-augment-source). Photographs are adapted whole, volumes on random
patches and predicted by a sliding window. The thesis' teacher sees the target in the source's style
(--mode style, the default for volumes); in photographs the one that sees it as it is is the safer.

Time and score on 2 cores (benchmarks/fundus.md, three seeds): about 30 minutes for source only and
adapted at 192 × 192; mean Dice from drishti_gs to refuge 86.3 → 89.7 %, oracle 91.5 %.

python scripts/train_aerunet_kd.py --oracle                  (phantoms; --volumes for brains)
python scripts/train_aerunet_kd.py --source-dataset refuge --source-root REFUGE \
    --target-dataset drishti_gs --target-root Drishti-GS1
python scripts/train_aerunet_kd.py --source-dataset brats --source-root BRATS \
    --source-domain t2 --target-domain flair --size 144 176 160 --patch 64 64 64
python scripts/train_aerunet_kd.py --cases cases.csv --source-domain zeiss --target-domain canon
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from keras_meduda.experiment.options import Count, Positive, Share
from keras_meduda.experiment.shift import GridFlags, ShiftFlags, brains, discs

Mode = Literal["style", "strong", "marginal", "plain", "chosen"]


@dataclass(frozen=True, kw_only=True)
class Flags(GridFlags, ShiftFlags):
    """AERUNet with KL distillation."""

    filters: tuple[Count, ...] = (16, 32, 64, 128, 256)
    """Width of each level; the thesis' 2D network has 32 64 128 256 512."""
    augment_source: bool = True
    """Recolour source images, and give half of them the target's style, while adapting."""
    mode: Mode | None = None
    """What the divergence compares (see KLDistillation); by default strong in photographs and style
    in volumes. chosen: style where source only agrees more with itself on the target in the
    source's style, else strong."""
    temperature: Positive = 2.0
    """Of the softened probabilities."""
    ema: Share | None = 0.99
    """Decay of the averaging teacher; None keeps it frozen."""
    volumes: bool = False
    """Without data: drawn brains, T2 to FLAIR, instead of drawn optic discs."""


def data(flags):
    """The cases of the flags, or phantoms."""
    from keras_meduda.experiment.domains import read

    return read(flags, partial(brains if flags.volumes else discs, flags))


def mode_of(flags, volumes):
    """What the divergence compares, unless --mode says so."""
    return flags.mode or ("style" if volumes else "strong")


def distillation(flags, mode, guard=False):
    """A function of a network and its batches that gives the method."""

    def method(network, batches):
        from keras_meduda.methods import KLDistillation

        compared = mode
        if mode == "chosen":
            compared = "style" if batches.target.styles else "strong"
        settings = {"ema": flags.ema, "guard": guard}
        return KLDistillation(
            network, batches.task.overlapping, compared, flags.temperature, **settings
        )

    return method


def recipe(flags, data, network=None):
    """Source only, adapted and, on request, the oracle, of AERUNet or another builder's network."""
    import keras_meduda as km
    from keras_meduda.experiment.networks import for_voxels
    from keras_meduda.experiment.recipe import Recipe, Stage, adam, supervised

    network = network or partial(
        km.models.AERUNet,
        filters=(8, 16) if flags.smoke else flags.filters,
        backbone=flags.backbone,
        weights=flags.weights,
    )
    grid = flags.grid(data, network.func.needs, normalise="zero_one", intensity=("clahe",))
    mode = mode_of(flags, grid.volumes)
    styled = mode in ("style", "chosen")
    twins = 2 if grid.volumes and styled else 4
    compile_alone = adam(flags.learning_rate, flags.encoder_rate)
    alone = Stage(supervised, compile=compile_alone, prepare=flags.prepare)
    adapted = Stage(
        distillation(flags, mode),
        uses=("source", "target"),
        start="source_only",
        compile=adam(flags.adapt_learning_rate, flags.encoder_rate),
        prepare=flags.prepare,
        target_styles=twins if styled else 0,
        choose_view=mode == "chosen",
        **flags.styled_source(grid, twins),
    )
    return Recipe(
        title=f"Adaptation: {data.route}",
        network=for_voxels(network, grid.spacing),
        stages=flags.stages(alone, adapted),
        **flags.settings(grid),
    )
