"""Lesions in rodent brains: RatLesNetV2 or a network of MONAI's, from scratch or by transfer.

Papers: RatLesNetV2 (Valverde et al., Front. Neurosci. 14:610239, 2020), and its transfer to mice
after a stroke (github.com/MJHossainSNMBU/Mice-Brain-Lesion-Segmentation-3D-MRI-). The mouse study
publishes no table; its curve of "partial, 40 mice" tops at a validation Dice of about 0.83.

Time and score on 2 cores (benchmarks/brain.md): ventricles of transgenic mice, 300 steps on 6 wild
type ones, about 5 minutes: Dice 57 % with the encoder kept, 47 % with all trained, 35 % from
scratch.

python scripts/train_ratlesnet.py                        (phantoms, a few minutes on 2 cores)
python scripts/train_ratlesnet.py --dataset mouse_mcao --root MICE --train-size 40 \
    --transfer partial --init EnlargingTrainingSet/11/model-1 --loss mouse_dice
python scripts/train_ratlesnet.py --dataset ratlesnet --root RATS --learning-rate 1e-4 --decay 1 \
    --l2 0 --epochs 700 --patience 700
python scripts/train_ratlesnet.py --dataset mouse_mcao --root MICE --model unetr --patch 96 96 32
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_meduda.experiment.options import Count, Existing, NotNegative, Options, Positive, Share


@dataclass(frozen=True, kw_only=True)
class Flags(Options):
    """Lesion segmentation in volumes; without data flags it runs on phantoms."""

    model: Literal["ratlesnet_v2", "unet", "dynunet", "unetr"] = "ratlesnet_v2"
    """The network; the last three are MONAI's, with the mouse study's settings."""
    transfer: Literal["none", "partial", "full"] = "none"
    """What trains after --init: the decoder (669,378 of RatLesNetV2's weights) or all; none starts
    from scratch."""
    init: Existing | None = None
    """Weights to start from: run folder, .keras, .weights.h5, or a PyTorch state dict."""
    moving_statistics: bool = False
    """Let batch norm of frozen layers adapt its statistics, as the mouse study's code did."""
    train_size: Count | None = None
    """Train on this many cases, small and large lesions alike; default: all."""
    dataset: Literal["mouse_mcao", "ratlesnet", "brain_mouse"] | None = None
    """Layout of --root."""
    root: Existing | None = None
    """Folder of the data set."""
    cases: Existing | None = None
    """Case table, instead of --root."""
    classes: tuple[str, ...] | None = None
    """Classes and their mask values, for --cases; default: lesion=1."""
    tolerance: NotNegative = 0
    """Mask values up to so far from a declared one count as it."""
    lesion: tuple[int, ...] | None = None
    """Older form of --classes: the mask values alone."""
    nan_background: bool = False
    """Take NaN in images for background, 0; else such images are refused."""
    train_domain: Annotated[
        str | None, tyro.conf.arg(name="source-domain", aliases=("--train-domain",))
    ] = None
    """Domain whose cases train, choose and test; default: all of them but --target-domain."""
    test_domain: Annotated[
        str | None, tyro.conf.arg(name="target-domain", aliases=("--test-domain",))
    ] = None
    """Another domain: all of its cases are tested as well, but those of groups that train."""
    loss: Literal["ratlesnet", "mouse_dice", "segmentation"] = "ratlesnet"
    """Cross-entropy + squared Dice, Dice of both classes, or ½·cross-entropy + ½·Dice."""
    epochs: Count | None = None
    """Most epochs; default 100, 289 in a transfer (the mouse study's), 15 on phantoms."""
    epoch: Count | None = None
    """Steps between validations, and between decays of the rate; default: once over the cases."""
    patience: NotNegative = 20
    """Validations without a better Dice after which training ends."""
    batch_size: Count = 1
    """Volumes, or patches, in a batch."""
    learning_rate: Positive = 1e-3
    """Of Adam in the first epoch."""
    decay: Positive = 0.95
    """Factor of the rate from one epoch to the next."""
    l2: Share = 1e-5
    """Of all weights, in the gradient."""
    axes: str | None = None
    """Order of the network's axes, such as ZXY; default: slices first for RatLesNetV2, whose
    published weights know no other, XYZ for MONAI's (and in the mouse study for both). Slices lie
    across the thickest voxels; where these are as long as wide, from back to front (Y)."""
    size: tuple[Count, Count, Count] | None = None
    """The network's grid, in this order; default: the largest case's."""
    spacing: tuple[Positive, Positive, Positive] | None = None
    """Voxels in mm, in this order; default: the files' own."""
    fit: Literal["crop", "crop_foreground"] = "crop"
    """Of volumes larger than the grid: keep the middle, or what lies around all that is not 0."""
    normalise: Literal["zscore", "zscore_foreground"] = "zscore"
    """Over the volume, or over what is not 0."""
    patch: tuple[Count, Count, Count] | None = None
    """Train on random patches and predict by a sliding window; default: whole volumes."""
    augment: bool = False
    """Flip, turn and scale the training volumes a little; their grey values stay."""
    augment_intensity: bool = False
    """Change the grey values of the training volumes, as another scanner would."""
    flips: str = ""
    """Axes along which a prediction is averaged over mirror images, such as X."""
    vote: tuple[Existing, ...] = ()
    """Other runs on these data, of other seeds, that vote with this one on every voxel."""
    smallest: NotNegative = 20
    """Voxels of an island or a hole that stays in a prediction; 0 leaves it as it is."""
    out: Path = Path("runs/ratlesnet")
    """Run folder."""
    seed: NotNegative = 42
    """Of the subset, the weights and the order; a split that is made here is always the same."""


def data(flags):
    """Cases that train, choose and are tested, and those of the other domain."""
    from keras_meduda.data.subset import balanced_subset, lesion_volumes
    from keras_meduda.experiment.data import Data
    from keras_meduda.experiment.lesions import check, read

    check(flags)
    own, other, task = read(flags)
    train, chosen, tested = (own[own["split"] == part] for part in ("train", "val", "test"))
    if flags.train_size:
        volumes = lesion_volumes(train, task)
        train = balanced_subset(train, volumes, flags.train_size, flags.seed)
    described = str(flags.root or flags.cases or "phantoms of this library")
    tests = {"test": tested, (*other["domain"].unique(), "other")[0]: other}
    return Data(task, {"source": train, "validation": chosen}, tests, described)


def recipe(flags, data):
    """One training on labels, from scratch or by transfer."""
    import keras

    import keras_meduda as km
    from keras_meduda.data.augment import Geometry
    from keras_meduda.evaluation.postprocess import islands_and_holes
    from keras_meduda.experiment.lesions import as_the_mouse_study
    from keras_meduda.experiment.networks import for_voxels
    from keras_meduda.experiment.recipe import Recipe, Stage
    from keras_meduda.methods.finetuning import load_checkpoint, train_only
    from keras_meduda.optimizers import AdamWithL2

    drawn = not (flags.root or flags.cases)
    dynunet = partial(km.models.DynUNet, deep_supervision=2)
    builders = {"unet": km.models.UNet, "unetr": km.models.UNETR, "dynunet": dynunet}
    builder = partial(builders.get(flags.model, km.models.RatLesNetV2))
    grid = _grid(flags, data, builder.func.needs)
    still = Geometry(flip=False, rotation=0.0, scale=0.0, shift=0.0)
    batches = {
        "patch": grid.batches.get("patch"),
        "geometry": grid.batches["geometry"] if flags.augment else still,
        "source_photometry": grid.batches["photometry"] if flags.augment_intensity else None,
    }
    epoch = flags.epoch or (2 if flags.smoke else -(-len(data.parts["source"]) // flags.batch_size))
    usual = 15 if drawn else 100 if flags.transfer == "none" else 289
    epochs = flags.epochs or (2 if flags.smoke else usual)

    def prepare(network):
        if flags.init:
            load_checkpoint(network, flags.init)
        part = "decoder" if flags.transfer == "partial" else "all"
        train_only(network, part, moving_statistics=flags.moving_statistics)

    def method(network, batches):
        # Weights of deep supervision relative to that of the logits; Adam knows no absolute ones.
        aux = {name: 0.5 ** int(name[4:]) for name in network.output if name.startswith("aux_")}
        loss = getattr(km.losses, flags.loss)
        return km.methods.Supervised(network, data.task.overlapping, loss, aux)

    def compile_method(method, steps):
        schedule = keras.optimizers.schedules.ExponentialDecay
        rate = schedule(flags.learning_rate, epoch, flags.decay, staircase=True)
        method.compile(AdamWithL2(rate, l2=flags.l2))

    keep = {"keep": "best:dice", "validate_every": epoch, "patience": flags.patience or None}
    keep = keep if "validation" in data.parts else {}
    return Recipe(
        title=f"{data.task.classes[0].capitalize()} in brains: {flags.model}, {flags.transfer}",
        network=for_voxels(builder, grid.spacing),
        preprocessing=grid.preprocessing,
        stages={"trained": Stage(method, compile=compile_method, prepare=prepare, keep=keep)},
        steps=epochs * epoch,
        batch_size=flags.batch_size,
        batches=batches,
        window=grid.window,
        masks=(lambda p: islands_and_holes(data.task.masks(p), flags.smallest))
        if flags.smallest
        else None,
        deploy=_deployed(flags, data, grid),
        notes=as_the_mouse_study,
        facts={
            "Postprocessing": f"islands and holes below {flags.smallest} voxels are removed"
            if flags.smallest
            else "none",
            "Flips": flags.flips or "none",
            "Votes": f"of {1 + len(flags.vote)} runs" if flags.vote else "none",
        },
    )


def _grid(flags, data, needs):
    """The network's grid: that of the largest case, or of the flags."""
    import pandas as pd

    from keras_meduda.experiment.grids import volume_grid

    grid = volume_grid(
        pd.concat([*data.parts.values(), *data.tests.values()]), size=flags.size,
        patch=flags.patch, spacing=flags.spacing, axes=flags.axes or needs.axes,
        fit=flags.fit, normalise=flags.normalise, multiple=needs.multiple, turn=20.0,
    )  # fmt: skip
    nan = flags.nan_background
    return replace(grid, preprocessing=replace(grid.preprocessing, nan_background=nan))


def _deployed(flags, data, grid):
    """Function from the trained run to the one that is scored: flipped, or of several votes."""
    import keras_meduda as km
    from keras_meduda.evaluation.ensemble import flips, vote
    from keras_meduda.run import Run

    others = [km.load(path) for path in flags.vote]
    if others:  # before the training whose run is to vote with them
        vote([Run(flags.out, None, data.task, grid.preprocessing, grid.window), *others])

    def deploy(run):
        runs = [flips(r, flags.flips) if flags.flips else r for r in (run, *others)]
        return vote(runs, flags.smallest) if others else runs[0]

    return deploy
