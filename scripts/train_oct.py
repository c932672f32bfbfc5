"""OCT fluid segmentation by transfer learning: the published configurations, and a recipe of ours.

Paper: transfer of MMSegmentation's UNet-S5-D16 from HRF vessels to macular fluid
(github.com/nogibjj/yj_xq_661_final_project); data: Chiu et al., Biomed. Opt. Express 6(4), 2015.

python scripts/train_oct.py                                   (phantoms, a few minutes on 2 cores)
python scripts/train_oct.py --root CHIU                       (our recipe on the published split)
python scripts/train_oct.py --root CHIU --split subject --fold 0
python scripts/train_oct.py --root CHIU --preset best --init pspnet_unet_s5-d16_hrf.pth
python scripts/train_oct.py --root CHIU --preset best --init pspnet_….pth --initial-inference
python scripts/train_oct.py --root CHIU --init runs/discs --train all --encoder-rate 0.1

Published test scores (22 B-scans, totals with the background): best mDice 0.8430, mIoU 0.7600.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from keras_meduda.cli import run_script


@dataclass(frozen=True)
class Row:
    """A row of the published table: UNetS5D16, batches of 2 at 512 × 512 or crops of it."""

    steps: int = 400
    crop: int | None = None
    flip: bool = False
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    l2: float = 5e-4


PUBLISHED = {
    "steps_200": Row(steps=200),
    "steps_400": Row(),
    "flip": Row(flip=True),
    "crop_192": Row(crop=192),
    "crop_224": Row(crop=224),
    "crop_320": Row(crop=320),
    "dice": Row(crop=320, loss="joint_dice_loss"),
    "focal": Row(crop=320, loss="focal_loss"),
    "adam": Row(crop=320, optimizer="adam"),
    "best": Row(crop=320, l2=1e-4),
    "l2_1e-3": Row(crop=320, l2=1e-3),  # in the published table, without a run behind it
}


@dataclass
class OCTFlags:
    """OCT fluid segmentation; without data flags the script runs on phantoms."""

    root: Path | None = None
    """Folder of the Chiu data set: its .mat files, or images/, masks/ and splits/."""
    split: Literal["published", "subject"] | None = None
    """Of --root: by image, as published (subjects leak; the default), or two subjects left out."""
    fold: int | None = None
    """Which two subjects, 0 to 4, for --split subject; default: 0."""
    cases: Path | None = None
    """Case table with train and test parts, instead of --root."""
    fluid: tuple[int, ...] | None = None
    """Mask values of fluid, for --cases; default: 1."""
    preset: Literal[
        "own", "steps_200", "steps_400", "flip", "crop_192", "crop_224", "crop_320", "dice",
        "focal", "adam", "best", "l2_1e-3",
    ] = "own"  # fmt: skip
    """Our recipe, or a row of the published table."""
    head: Literal["psp", "fcn", "deeplabv3"] | None = None
    """Decode head of the published network; default: psp."""
    init: Path | None = None
    """Checkpoint to start from: run folder, .keras, .weights.h5, or a PyTorch state dict."""
    initial_inference: bool = False
    """Only evaluate that checkpoint, on all cases."""
    train: str = "all"
    """What trains: head, decoder, encoder, all, or a regular expression of layer names."""
    encoder_rate: float = 1.0
    """Share of the learning rate that the encoder gets."""
    freeze_batch_norm: bool = False
    """Keep batch norm as the checkpoint has it."""
    out: Path = Path("runs/oct")
    """Run folder."""
    steps: int | None = None
    """Updates of the network; default: the preset's, 200 on phantoms."""
    batch_size: int | None = None
    """Default: the preset's."""
    size: int | None = None
    """Side of the network's grid; default: the preset's, 96 on phantoms."""
    seed: int = 0
    """Of the weights, the order and the augmentation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network."""
    strategy: Literal["none", "mirrored", "multiworker"] = "none"
    """Over all GPUs of this machine (mirrored), or all machines of TF_CONFIG (multiworker)."""
    resume: bool = True
    """Continue what the run folder holds."""
    smoke: bool = False
    """Shrink everything: the same path in seconds, for a first try."""


@dataclass(frozen=True)
class Plan:
    """A configuration, whole but for the cases and the seed."""

    preprocessing: Any
    network: Callable  # () -> network
    optimizer: Callable  # steps -> optimiser
    steps: int
    batch_size: int
    loss: Callable
    aux_weights: dict = field(default_factory=dict)
    batches: dict = field(default_factory=dict)  # augmentation, as Batches takes it
    window: Any = None


def own_plan(size=256, filters=(16, 32, 64, 128, 256)):
    """A residual U-Net on whole images, CE + Dice, AdamW, cosine, flip, scale and contrast."""
    import keras

    import keras_meduda as km
    from keras_meduda.data.augment import Geometry, Photometry

    return Plan(
        preprocessing=km.Preprocessing(size=(size, size), normalise="zero_one", channels=1),
        network=lambda: km.models.AERUNet((size, size, 1), channels=2, filters=filters),
        optimizer=lambda steps: keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(1e-3, steps), weight_decay=1e-2
        ),
        steps=800,
        batch_size=8,
        loss=km.losses.segmentation,
        batches={
            "geometry": Geometry(rotation=10.0, scale=0.25),
            "source_photometry": Photometry(brightness=0.1, blur=0.5, noise=0.02, probability=0.5),
        },
    )


def published_plan(row, size=512, head="psp"):
    """A row of the published table; crops, windows and strides shrink with a smaller size.

    One step of its inference differs. There the averaged logits are resized to the picture's own
    grid and the larger one wins; here it is the probabilities of the averaged logits that are
    resized, as everywhere in this library.
    """
    import keras

    import keras_meduda as km
    from keras_meduda.data.augment import Geometry, RandomCrop
    from keras_meduda.optimizers import AdamWithL2, SGDWithL2

    def scaled(pixels):
        return (round(pixels * size / 512),) * 2

    def optimizer(steps):
        # The published schedule ends at 40,000 steps, of which training takes the first few.
        poly = keras.optimizers.schedules.PolynomialDecay(0.01, 40_000, 1e-4, power=0.9)
        if row.optimizer == "adam":
            return AdamWithL2(poly, l2=row.l2)
        return SGDWithL2(poly, momentum=0.9, l2=row.l2)

    return Plan(
        preprocessing=km.Preprocessing(size=(size, size), normalise="imagenet"),
        network=lambda: km.models.UNetS5D16((None, None, 3), channels=2, head=head),
        optimizer=optimizer,
        steps=row.steps,
        batch_size=2,
        loss=getattr(km.losses, row.loss),
        aux_weights={"aux_1": 0.4 if row.loss == "cross_entropy" else 1.0},
        batches={
            "geometry": Geometry(flip=row.flip, rotation=0.0, scale=0.0, shift=0.0),
            "crop": RandomCrop(scaled(row.crop)) if row.crop else None,
        },
        window=km.SlidingWindow(scaled(256), scaled(170)),
    )


def train(
    plan, cases, task, out, seed=0, init=None, part="all", encoder_rate=1.0,
    freeze_batch_norm=False, strategy="none", precision="float32", resume=True, store=None,
):  # fmt: skip
    """Trains, or fine-tunes, on labelled cases; returns the run."""
    from rich.filesize import decimal

    import keras_meduda as km
    from keras_meduda.data.pipeline import Batches, prepare, prepared_bytes
    from keras_meduda.methods.finetuning import discriminative, load_checkpoint, train_only

    disk = decimal(prepared_bytes(cases, plan.preprocessing))
    print(
        f"{len(cases)} B-scans of {by_subject(cases)['group'].nunique()} subjects train on a grid "
        f"of {plan.preprocessing.size}; {disk} on disk"
    )
    with km.setup(strategy, precision, seed):
        network = plan.network()
        if init:
            load_checkpoint(network, init)
        train_only(network, part, freeze_batch_norm)
        method = km.methods.Supervised(network, task.overlapping, plan.loss, plan.aux_weights)
        optimizer = plan.optimizer(plan.steps)
        if encoder_rate != 1.0:
            optimizer = discriminative(optimizer, network, {"encoder": encoder_rate})
        method.compile(optimizer)
    source = prepare(cases, task, plan.preprocessing, store or out / "prepared", labels=True)
    batches = Batches(plan.batch_size, seed, source=source, **plan.batches)
    return km.fit(method, batches, steps=plan.steps, run_dir=out, resume=resume, window=plan.window)


def evaluate_by_subject(run, cases):
    """Metrics of every case, with its subject as the group that intervals are resampled by."""
    import keras_meduda as km

    return km.evaluate(run, by_subject(cases))


def by_subject(cases):
    """Cases with their subjects as the groups."""
    return cases.assign(group=cases.get("subject", cases["group"]))


def score_once(run, cases):
    """Metrics of every case by subject, counts of its calibration, and totals over all pixels."""
    import keras_meduda as km
    from keras_meduda.data.io import read_mask
    from keras_meduda.evaluation.report import score

    labels = []  # of every prediction, in the order of the cases

    def masks(probabilities):
        labels.append(probabilities.argmax(axis=-1).astype("uint8"))
        return run.task.masks(probabilities)

    frame, counts = score(run, by_subject(cases), masks=masks)
    references = (read_mask(cell, run.task) for cell in cases["mask"])
    return frame, counts, km.metrics.totals(zip(labels, references, strict=True), run.task.classes)


def label_pairs(run, cases):
    """Predicted and reference labels of every case, for `km.metrics.totals`."""
    from keras_meduda.data.io import read_mask
    from keras_meduda.evaluation.predict import predict_all

    predictions = predict_all(run, list(cases["image"]))
    for probabilities, mask in zip(predictions, cases["mask"], strict=True):
        yield probabilities.argmax(axis=-1), read_mask(mask, run.task)


def check(flags):
    """Refuses flags that make no sense, or that nothing would read."""
    for name in ("steps", "batch_size", "size"):
        if (value := getattr(flags, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: received {value}, expected 1 or more.")
    if flags.root and flags.cases:
        raise ValueError("Received both --root and --cases; expected one of them.")
    for name, useful, needs in (
        ("split", flags.root, "--root"),
        ("fold", flags.split == "subject", "--split subject"),
        ("fluid", flags.cases, "--cases"),
        ("head", flags.preset != "own", "a --preset of the published table"),
    ):
        if getattr(flags, name) is not None and not useful:
            raise ValueError(f"--{name} needs {needs}.")
    if flags.initial_inference and not flags.init:
        raise ValueError("--initial-inference evaluates a checkpoint: name it with --init.")


def read(flags):
    """Cases and task of the flags, every file looked at; phantoms where no data are named."""
    import keras_meduda as km
    from keras_meduda.data.checks import checked
    from keras_meduda.data.phantoms import drawn, write_oct

    if flags.root:
        table = flags.root
        cases, task = km.catalog.chiu(flags.root, flags.split or "published", flags.fold)
    else:
        counts = (3, 2) if flags.smoke else (12, 6)
        table = flags.cases or drawn(write_oct, flags.out, *counts, 128, flags.seed)
        cases = km.read_cases(table)
        task = km.Task(("fluid",), values={"fluid": flags.fluid or (1,)})
    labelled = cases[cases["mask"] != ""]
    if lost := len(cases) - len(labelled):
        print(f"{lost} of {len(cases)} B-scans have no mask and are left out")
    needed = set() if flags.initial_inference else {"train", "test"}
    if missing := needed - set(labelled["split"]):
        parts = " and ".join(sorted(missing))
        raise ValueError(f"{table}: no case of split {parts} with a mask; expected some of both.")
    checked(labelled, task)
    return labelled, task


def main(flags):
    """Trains and evaluates, or only evaluates."""
    import json
    import time
    from dataclasses import replace

    from keras_meduda.data.io import replacing
    from keras_meduda.distribution import is_chief, strategy
    from keras_meduda.evaluation.report import (
        about_run,
        about_session,
        write_evaluation,
        write_report,
    )
    from keras_meduda.methods.finetuning import load_checkpoint
    from keras_meduda.training import Run

    check(flags)
    began = time.perf_counter()
    phantoms = not (flags.root or flags.cases)
    size = flags.size or (64 if flags.smoke else 96 if phantoms else None)
    cases, task = read(flags)
    if flags.preset == "own":
        filters = (8, 16, 32) if flags.smoke else (16, 32, 64, 128, 256)
        plan = own_plan(size or 256, filters)
    else:
        plan = published_plan(PUBLISHED[flags.preset], size or 512, flags.head or "psp")
    steps = flags.steps or (4 if flags.smoke else 200 if phantoms else plan.steps)
    plan = replace(plan, steps=steps, batch_size=flags.batch_size or plan.batch_size)

    if flags.initial_inference:
        network, name, tested = plan.network(), "initial", cases
        load_checkpoint(network, flags.init)
        run = Run(flags.out / name, network, task, plan.preprocessing, plan.window)
    else:
        tested, name = cases[cases["split"] == "test"], "test"
        run = train(
            plan,
            cases[cases["split"] == "train"],
            task,
            flags.out,
            flags.seed,
            flags.init,
            flags.train,
            flags.encoder_rate,
            flags.freeze_batch_norm,
            flags.strategy,
            flags.precision,
            flags.resume,
        )
    if not is_chief(strategy(flags.strategy)):
        return  # one worker evaluates and writes
    frame, counts, totals = score_once(run, tested)
    summary = write_evaluation(flags.out, name, frame)
    with replacing(flags.out / "evaluation" / name / "totals.json") as unfinished:
        unfinished.write_text(json.dumps(totals, indent=1))
    show(summary, totals, flags)
    where = flags.root or flags.cases or "phantoms of this library"
    if flags.root and not flags.initial_inference:
        where = f"{where}, split {flags.split or 'published'}"
    page = write_report(
        run.path / "report.html",
        title=f"OCT fluid: {flags.preset}, {name}",
        parts={name: {flags.preset: frame}},
        runs={flags.preset: run},
        cases=tested,
        task=task,
        calibration={flags.preset: counts},
        trainings={} if flags.initial_inference else {"training": run.path},
        notes=(
            f"Totals, pixels counted over all B-scans together: mean Dice of background and fluid "
            f"{100 * totals['mdice']:.2f} %, mean IoU {100 * totals['miou']:.2f} %.",
        ),
        facts={"Data": f"{where}, groups are subjects"} | about_run(run) | about_session(began),
    )
    print(f"report: {page}")


def show(summary, totals, flags):
    """One table: totals as published, and the mean over cases with its interval."""
    from rich.console import Console
    from rich.table import Table

    fluid = summary["classes"]["fluid"]
    table = Table(
        "", "Dice", "IoU", title=f"{summary['n']} B-scans of {summary['groups']} subjects"
    )
    table.add_row(
        "mean of background and fluid, totals", f"{totals['mdice']:.4f}", f"{totals['miou']:.4f}"
    )
    table.add_row(
        "fluid, totals", f"{totals['dice']['fluid']:.4f}", f"{totals['iou']['fluid']:.4f}"
    )
    table.add_row(
        "fluid, mean over B-scans (95 % by subject)",
        *(
            f"{fluid[m]['mean']:.3f} ({fluid[m]['ci95'][0]:.3f} to {fluid[m]['ci95'][1]:.3f})"
            for m in ("dice", "iou")
        ),
    )
    Console().print(table)
    empty = fluid["empty"]["both"]
    print(f"In the last row a B-scan without fluid in which none is found counts 1: {empty} here.")
    if flags.root and flags.split != "subject" and not flags.initial_inference:
        print("The published split is by image: every tested subject has B-scans in training.")


if __name__ == "__main__":
    run_script(main, OCTFlags)
