"""Lesions in rodent brains: RatLesNetV2 or a network of MONAI's, from scratch or by transfer.

Papers: RatLesNetV2 (Valverde et al., Front. Neurosci. 14:610239, 2020), and its transfer to mice
after a stroke (github.com/MJHossainSNMBU/Mice-Brain-Lesion-Segmentation-3D-MRI-).

python scripts/train_ratlesnet.py                        (phantoms, a few minutes on 2 cores)
python scripts/train_ratlesnet.py --dataset mouse_mcao --root MICE --train-size 40 \
    --transfer partial --init EnlargingTrainingSet/11/model-1 --loss mouse_dice
python scripts/train_ratlesnet.py --dataset ratlesnet --root RATS --learning-rate 1e-4 --decay 1 \
    --l2 0 --epochs 700 --patience 700
python scripts/train_ratlesnet.py --dataset mouse_mcao --root MICE --model unetr --patch 96 96 32

The mouse study publishes no table; its curve of "partial, 40 mice" tops at a validation Dice of
about 0.83.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_meduda.cli import run_script


@dataclass
class RatLesNetFlags:
    """Lesion segmentation in volumes; without data flags the script runs on phantoms."""

    model: Literal["ratlesnet_v2", "unet", "dynunet", "unetr"] = "ratlesnet_v2"
    """The network; the last three are MONAI's, with the mouse study's settings."""
    transfer: Literal["none", "partial", "full"] = "none"
    """What trains after --init: the decoder (669,378 of RatLesNetV2's weights) or all; none starts
    from scratch."""
    init: Path | None = None
    """Weights to start from: run folder, .keras, .weights.h5, or a PyTorch state dict."""
    moving_statistics: bool = False
    """Let batch norm of frozen layers adapt its statistics, as the mouse study's code did."""
    train_size: int | None = None
    """Train on this many cases, small and large lesions alike; default: all."""
    dataset: Literal["mouse_mcao", "ratlesnet", "brain_mouse"] | None = None
    """Layout of --root."""
    root: Path | None = None
    """Folder of the data set."""
    cases: Path | None = None
    """Case table, instead of --root."""
    lesion: tuple[int, ...] = (1,)
    """Mask values of the lesion, for --cases."""
    train_domain: str | None = None
    """Domain whose cases train, choose and test; default: all of them but --test-domain."""
    test_domain: str | None = None
    """Another domain: all of its cases are tested as well, but those of groups that train."""
    loss: Literal["ratlesnet", "mouse_dice", "segmentation"] = "ratlesnet"
    """Cross-entropy + squared Dice, Dice of both classes, or ½·cross-entropy + ½·Dice."""
    epochs: int | None = None
    """Most epochs; default 100, 289 in a transfer (the mouse study's), 15 on phantoms."""
    epoch: int | None = None
    """Steps between validations, and between decays of the rate; default: once over the cases."""
    patience: int = 20
    """Validations without a better Dice after which training ends."""
    batch_size: int = 1
    """Volumes, or patches, in a batch."""
    learning_rate: float = 1e-3
    """Of Adam in the first epoch."""
    decay: float = 0.95
    """Factor of the rate from one epoch to the next."""
    l2: float = 1e-5
    """Of all weights, in the gradient."""
    axes: str | None = None
    """Order of the network's axes, such as ZXY; default: slices first for RatLesNetV2, whose
    published weights know no other, XYZ for MONAI's (and in the mouse study for both). Slices lie
    across the thickest voxels; where these are as long as wide, from back to front (Y)."""
    size: tuple[int, int, int] | None = None
    """The network's grid, in this order; default: the largest case's."""
    spacing: tuple[float, float, float] | None = None
    """Voxels in mm, in this order; default: the files' own."""
    fit: Literal["crop", "crop_foreground"] = "crop"
    """Of volumes larger than the grid: keep the middle, or what lies around all that is not 0."""
    normalise: Literal["zscore", "zscore_foreground"] = "zscore"
    """Over the volume, or over what is not 0."""
    patch: tuple[int, int, int] | None = None
    """Train on random patches and predict by a sliding window; default: whole volumes."""
    augment: bool = False
    """Flip, turn and scale the training volumes a little; their grey values stay."""
    augment_intensity: bool = False
    """Change the grey values of the training volumes, as another scanner would."""
    flips: str = ""
    """Axes along which a prediction is averaged over mirror images, such as X."""
    vote: tuple[Path, ...] = ()
    """Other runs on these data, of other seeds, that vote with this one on every voxel."""
    smallest: int = 20
    """Voxels of an island or a hole that stays in a prediction; 0 leaves it as it is."""
    out: Path = Path("runs/ratlesnet")
    """Run folder."""
    seed: int = 42
    """Of the subset, the weights and the order; a split that is made here is always the same."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network."""
    strategy: Literal["none", "mirrored", "multiworker"] = "none"
    """Over all GPUs of this machine (mirrored), or all machines of TF_CONFIG (multiworker)."""
    resume: bool = True
    """Continue what the run folder holds."""
    smoke: bool = False
    """Two epochs of two steps, on tiny phantoms or on your data: the same path, for a first try."""


def build(model, shape, channels, spacing):
    """A network; DynUNet neither mixes nor halves at first along an axis of far longer voxels."""
    import keras_meduda as km

    if model == "dynunet":
        long = [s > 2 * min(spacing) for s in spacing]
        kernels = (tuple(1 if far else 3 for far in long), 3, 3, 3, 3)
        strides = (1, tuple(1 if far else 2 for far in long), 2, 2, 2)
        return km.models.DynUNet(shape, channels, kernels, strides, deep_supervision=2)
    builders = {
        "ratlesnet_v2": km.models.RatLesNetV2,
        "unet": km.models.UNet,
        "unetr": km.models.UNETR,
    }
    return builders[model](shape, channels)


def moves(spacing):
    """Small moves, without turns that would mix axes whose voxels differ in length."""
    from keras_meduda.data.augment import Geometry

    planes = ([s for b, s in enumerate(spacing) if b != a] for a in range(3))
    return Geometry(rotation=tuple(20.0 if max(p) < 1.5 * min(p) else 0.0 for p in planes))


def preprocessing_of(flags, cases):
    """The network's grid, and the spacing of the first case's voxels along its axes.

    Args:
        flags: the script's.
        cases: case table, of whose files the headers are read.

    Raises:
        DataError: cases whose slices lie across different axes, where --axes does not say which.
        ValueError: a patch that is larger than the grid.
    """
    import sys

    import numpy as np

    import keras_meduda as km
    from keras_meduda.data.io import DataError, Problem, image_files, read_spacing
    from keras_meduda.data.nifti import read_canonical_shape, slice_axis

    files = [image_files(cell)[0] for cell in cases["image"]]
    spacings = [read_spacing(file) for file in files]

    def unlike(seen, remedy, severity):
        """The files of which something else is seen than of the first."""
        expected = f"{seen[0]} as in {files[0]}, or {remedy}"
        others = zip(files, seen, strict=True)
        return [Problem(f, now, expected, severity) for f, now in others if now != seen[0]]

    axes = flags.axes or "XYZ"
    if flags.model == "ratlesnet_v2" and not flags.axes:
        across = ["XYZ"[slice_axis(spacing)] for spacing in spacings]
        axes = across[0] + axes.replace(across[0], "")
        if turned := unlike([f"slices across {axis}" for axis in across], "--axes", "error"):
            raise DataError(*turned)
    if not flags.spacing:
        voxels = [" × ".join(f"{mm:.2g}" for mm in spacing) for spacing in spacings]
        for problem in unlike([f"voxels of {mm} mm" for mm in voxels], "--spacing", "warning"):
            print(problem, file=sys.stderr)

    def grid(size, fit=flags.fit):
        return km.Preprocessing(
            size, normalise=flags.normalise, channels=1, axes=axes, spacing=flags.spacing, fit=fit
        )

    size = flags.size
    if size is None:
        blank = (np.broadcast_to(0, (*read_canonical_shape(file), 1)) for file in files)
        grids = map(grid((1, 1, 1), "crop").placement, blank, spacings)
        size = np.max([place.grid for place in grids], axis=0)
        if flags.model == "unetr":  # which has no other sizes
            size = -(-size // 16) * 16
    size = tuple(map(int, size))
    if flags.patch and any(p > n for p, n in zip(flags.patch, size, strict=True)):
        raise ValueError(f"--patch {flags.patch} is larger than the grid {size} (axes {axes}).")
    return grid(size), flags.spacing or [spacings[0]["XYZ".index(a)] for a in axes]


def window_of(flags):
    """How a network that trains on patches predicts."""
    import keras_meduda as km

    return km.SlidingWindow(flags.patch, gaussian=True) if flags.patch else None


def train(flags, cases, task, network=None, other=None):
    """Trains, or fine-tunes, on the train part of the cases; keeps what is best on the val part.

    Without one, the weights of the last step.

    Args:
        flags: the script's.
        cases: case table with the parts train and perhaps val.
        task: what is segmented.
        network: function from input shape and channels to a network. Default: that of the flags.
        other: cases that are to be predicted as well and must fit on the grid. Default none.

    Returns:
        The run.
    """
    import keras
    import pandas as pd
    from rich.filesize import decimal

    import keras_meduda as km
    from keras_meduda.data.augment import Geometry, Intensity, RandomPatch
    from keras_meduda.data.pipeline import Batches, prepare, prepared_bytes
    from keras_meduda.data.subset import balanced_subset, lesion_volumes
    from keras_meduda.evaluation.validation import mean_dice
    from keras_meduda.methods.finetuning import load_checkpoint, train_only
    from keras_meduda.optimizers import AdamWithL2

    preprocessing, spacing = preprocessing_of(flags, pd.concat([cases, other]))
    with_mask = cases[cases["mask"] != ""]
    labelled, val = (with_mask[with_mask["split"] == part] for part in ("train", "val"))
    if flags.train_size:
        volumes = lesion_volumes(labelled, task)
        labelled = balanced_subset(labelled, volumes, flags.train_size, flags.seed)
    disk = decimal(prepared_bytes(labelled, preprocessing))
    print(
        f"{len(labelled)} cases of {labelled['group'].nunique()} groups train on a grid of "
        f"{preprocessing.size}; {disk} on disk"
    )
    patch, window = flags.patch or preprocessing.size, window_of(flags)

    with km.setup(flags.strategy, flags.precision, flags.seed):
        shape = (*patch, 1)
        if network is None:
            network = build(flags.model, shape, task.channels, spacing)
        else:
            network = network(shape, task.channels)
        if flags.init:
            load_checkpoint(network, flags.init)
        part = "decoder" if flags.transfer == "partial" else "all"
        train_only(network, part, moving_statistics=flags.moving_statistics)
        # Weights of deep supervision relative to that of the logits; Adam knows no absolute ones.
        aux = {name: 0.5 ** int(name[4:]) for name in network.output if name.startswith("aux_")}
        loss = getattr(km.losses, flags.loss)
        method = km.methods.Supervised(network, task.overlapping, loss, aux)
        epoch = flags.epoch or -(-len(labelled) // flags.batch_size)
        rate = keras.optimizers.schedules.ExponentialDecay(
            flags.learning_rate, epoch, flags.decay, staircase=True
        )
        method.compile(AdamWithL2(rate, l2=flags.l2))
    still = Geometry(flip=False, rotation=0.0, scale=0.0, shift=0.0)
    batches = Batches(
        flags.batch_size,
        flags.seed,
        source=prepare(labelled, task, preprocessing, flags.out / "prepared", labels=True),
        geometry=moves(spacing) if flags.augment else still,
        source_photometry=Intensity() if flags.augment_intensity else None,
        patch=RandomPatch(flags.patch) if flags.patch else None,
    )
    epochs = flags.epochs or (100 if flags.transfer == "none" else 289)
    stopping = {}
    if len(val):
        stopping = {
            "validation": mean_dice(val, task, preprocessing, window),
            "validate_every": epoch,
            "keep": "best:dice",
            "patience": flags.patience,
        }
    return km.fit(
        method,
        batches,
        steps=epochs * epoch,
        run_dir=flags.out,
        resume=flags.resume,
        window=window,
        **stopping,
    )


def check(flags):
    """What can be said of the flags before a file is read."""
    if bool(flags.root) != bool(flags.dataset) or flags.root and flags.cases:
        raise ValueError("Expected --dataset with --root, or --cases, or none of them (phantoms).")
    if flags.train_domain and flags.train_domain == flags.test_domain:
        raise ValueError(f"--train-domain and --test-domain are both {flags.test_domain!r}.")
    if (flags.transfer == "none") != (flags.init is None):
        raise ValueError(
            f"--transfer {flags.transfer} with --init {flags.init}: a transfer needs weights to "
            "start from, and weights a transfer, partial or full."
        )
    if flags.init and not flags.init.exists():
        raise FileNotFoundError(f"{flags.init}: no such checkpoint.")
    if flags.moving_statistics and flags.transfer != "partial":
        raise ValueError("--moving-statistics is of --transfer partial: nothing else is frozen.")
    if not set(flags.flips) <= set("XYZ"):
        raise ValueError(f"--flips {flags.flips}: expected letters out of XYZ.")


def read(flags):
    """Labelled cases in the parts train, val and test, those of the other domain, and the task.

    No case of the other domain trains, and no group that trains or chooses is tested.
    """
    import pandas as pd

    import keras_meduda as km
    from keras_meduda.data.checks import checked
    from keras_meduda.data.io import DataError, Problem, is_volume
    from keras_meduda.data.phantoms import drawn, write_brain
    from keras_meduda.data.splits import in_three, unseen

    if flags.smoke:
        flags.epochs, flags.epoch = flags.epochs or 2, flags.epoch or 2
    if flags.dataset:
        cases, task = getattr(km.catalog, flags.dataset)(flags.root)
    else:
        table = flags.cases
        if not table:
            if not (flags.train_domain or flags.test_domain):
                flags.train_domain, flags.test_domain = "t2", "flair"
            flags.epochs = flags.epochs or 15
            size = (16, 20, 12) if flags.smoke else (40, 44, 32)
            table = drawn(write_brain, flags.out, 12, size, 0)
        cases = km.read_cases(table)
        values = flags.lesion if flags.cases else (1,)
        task = km.Task(("lesion",), values={"lesion": values}, unit="mm")
    domains = set(cases["domain"])
    if unknown := {flags.train_domain, flags.test_domain} - {None, *domains}:
        raise ValueError(f"no case of domain {sorted(unknown)}; there are {sorted(domains)}.")
    if flat := [cell for cell in cases["image"] if not is_volume(cell)]:
        raise DataError(*(Problem(cell, "no volume", "NIfTI: .nii or .nii.gz") for cell in flat))
    labelled = cases[cases["mask"] != ""]
    if lost := len(cases) - len(labelled):
        print(f"{lost} of {len(cases)} cases have no mask and are left out")
    away = labelled["domain"] == flags.test_domain
    home = labelled["domain"] == flags.train_domain if flags.train_domain else ~away
    own, other = in_three(labelled[home]), labelled[away]
    learnt = own[own["split"] != "test"]
    own = pd.concat([learnt, unseen(own[own["split"] == "test"], learnt)])
    other = unseen(other, learnt) if flags.test_domain else other
    checked(pd.concat([own, other]), task, channels=1)
    return own, other, task


def main(flags):
    """Trains, tests in mm, and leaves pictures and a report."""
    import time

    import pandas as pd

    import keras_meduda as km
    from keras_meduda.distribution import is_chief, strategy
    from keras_meduda.evaluation.ensemble import flips, vote
    from keras_meduda.evaluation.orthogonal import write_orthogonal_slices
    from keras_meduda.evaluation.postprocess import islands_and_holes
    from keras_meduda.evaluation.report import (
        about_run,
        about_session,
        score,
        write_evaluation,
        write_report,
    )
    from keras_meduda.training import Run

    began = time.perf_counter()
    check(flags)
    others = [km.load(path) for path in flags.vote]
    own, other, task = read(flags)
    if others:  # before the training whose run is to vote with them
        grid = preprocessing_of(flags, pd.concat([own, other]))[0]
        vote([Run(flags.out, None, task, grid, window_of(flags)), *others])
    runs = [train(flags, own, task, other=other), *others]
    if not is_chief(strategy(flags.strategy)):
        return  # one worker evaluates and writes
    runs = [flips(run, flags.flips) for run in runs] if flags.flips else runs
    run = vote(runs, flags.smallest) if others else runs[0]
    masks = None
    if flags.smallest:
        masks = lambda p: islands_and_holes(task.masks(p), flags.smallest)  # noqa: E731
    tested = {"test": own[own["split"] == "test"]}
    if flags.test_domain:
        tested[flags.test_domain] = other
    method, parts, calibration, notes = f"{flags.model}, {flags.transfer}", {}, {}, []
    made = {
        "Postprocessing": f"islands and holes below {flags.smallest} voxels are removed"
        if flags.smallest
        else "none",
        "Flips": flags.flips or "none",
        "Votes": f"of {len(runs)} runs" if others else "none",
    }
    print("; ".join(f"{name.lower()}: {text}" for name, text in made.items()))
    for name, part in tested.items():
        frame, counts = score(run, part, masks=masks)
        parts[name], calibration[name] = {method: frame}, {method: counts}
        show(write_evaluation(flags.out, name, frame), name)
        notes += [f"{name}, {line}" for line in as_the_mouse_study(frame)]
        folder = flags.out / "slices" / name
        print("slices:", *write_orthogonal_slices(folder, run, part, frame, masks))
    for note in notes:
        print(note)
    page = write_report(
        flags.out / "report.html",
        title=f"{task.classes[0].capitalize()} in brains: {method}",
        parts=parts,
        runs={method: run},
        cases=tested["test"],
        task=task,
        calibration=calibration["test"],
        trainings={"training": flags.out},
        masks=masks,
        notes=tuple(notes),
        facts={"Data": str(flags.root or flags.cases or "phantoms of this library")}
        | made
        | about_run(run)
        | about_session(began),
    )
    print(f"report: {page}")


def as_the_mouse_study(frame):
    """One line a class in which a mask is empty: means as the mouse study's code has them.

    Two empty masks, as of a sham animal, score a Dice of 0, and a distance to an empty mask is left
    out; `km.evaluate` gives 1, and the image's diagonal.
    """
    for label, rows in frame.groupby("class", sort=False):
        empty = rows[["prediction_empty", "reference_empty"]]
        if empty.any(axis=None):
            dice = rows["dice"].mask(empty.all(axis=1), 0.0).mean()
            hd95 = rows["hd95"].mask(empty.any(axis=1)).mean()
            yield (
                f"{label}, as the mouse study counts (two empty masks 0, distances to an empty one "
                f"left out): Dice {dice:.3f}, HD95 {hd95:.3f} mm"
            )


def show(summary, name):
    """One line a class: Dice and HD95 with their intervals."""
    for label, of in summary["classes"].items():
        dice, hd95 = (
            f"{of[m]['mean']:.3f} ({of[m]['ci95'][0]:.3f} to {of[m]['ci95'][1]:.3f})"
            for m in ("dice", "hd95")
        )
        print(
            f"{name}, {label}: Dice {dice}, HD95 {hd95} mm (MedPy's definition), "
            f"{summary['n']} cases of {summary['groups']} groups"
        )


if __name__ == "__main__":
    run_script(main, RatLesNetFlags)
