"""OCT fluid segmentation by transfer learning: the published configurations, and a recipe of ours.

Paper: transfer of MMSegmentation's UNet-S5-D16 from HRF vessels to macular fluid
(github.com/nogibjj/yj_xq_661_final_project); data: Chiu et al., Biomed. Opt. Express 6(4), 2015.
Published test scores (22 B-scans, totals with the background): best mDice 0.8430, mIoU 0.7600.

Time and score (benchmarks/oct.md): our recipe 36 minutes of one core, mean Dice of background and
fluid 86.8 % on the published split, 85.3 % with subjects left out.

python scripts/train_oct.py                                   (phantoms, a few minutes on 2 cores)
python scripts/train_oct.py --root CHIU                       (our recipe on the published split)
python scripts/train_oct.py --root CHIU --split subject --fold 0
python scripts/train_oct.py --root CHIU --backbone mobilenetv2 --weights imagenet
python scripts/train_oct.py --root CHIU --preset best --init pspnet_unet_s5-d16_hrf.pth
python scripts/train_oct.py --root CHIU --preset best --init pspnet_….pth --initial-inference
python scripts/train_oct.py --root CHIU --init runs/discs --train all --encoder-rate 0.1
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from keras_meduda.experiment.options import (
    Count,
    Existing,
    NotNegative,
    Options,
    StartFlags,
)


@dataclass(frozen=True, kw_only=True)
class Flags(StartFlags, Options):
    """OCT fluid segmentation; without data flags it runs on phantoms."""

    root: Existing | None = None
    """Folder of the data set: its .mat files, or images/, masks/ and splits/."""
    dataset: Literal["chiu"] = "chiu"
    """Layout of --root."""
    split: Literal["published", "subject"] | None = None
    """Of --root: by image, as published (subjects leak; the default), or two subjects left out."""
    fold: NotNegative | None = None
    """One of --folds alone, or which two subjects, 0 to 4, for --split subject; default: 0."""
    cases: Existing | None = None
    """Case table with train and test parts, instead of --root."""
    classes: tuple[str, ...] | None = None
    """Classes and their mask values, for --cases; default: fluid=1."""
    tolerance: NotNegative = 0
    """Mask values up to so far from a declared one count as it."""
    fluid: tuple[int, ...] | None = None
    """Older form of --classes: the mask values alone."""
    preset: Literal[
        "own", "steps_200", "steps_400", "flip", "crop_192", "crop_224", "crop_320", "dice",
        "focal", "adam", "best", "l2_1e-3",
    ] = "own"  # fmt: skip
    """Our recipe, or a row of the published table."""
    head: Literal["psp", "fcn", "deeplabv3"] | None = None
    """Decode head of the published network; default: psp."""
    init: Existing | None = None
    """Checkpoint to start from: run folder, .keras, .weights.h5, or a PyTorch state dict."""
    initial_inference: bool = False
    """Only evaluate that checkpoint, on all cases."""
    out: Path = Path("runs/oct")
    """Run folder."""
    steps: Count | None = None
    """Updates of the network; default: the preset's, 200 on phantoms."""
    batch_size: Count | None = None
    """Default: the preset's."""
    size: Count | None = None
    """Side of the network's grid; default: the preset's, 96 on phantoms."""

    def check(self):
        """Refuses flags that make no sense, or that nothing would read."""
        if self.root and self.cases:
            raise ValueError("Received both --root and --cases; expected one of them.")
        if self.folds and self.split:
            raise ValueError(f"--split {self.split} with --folds; expected one of them.")
        for name, useful, needs in (
            ("split", self.root, "--root"),
            ("fold", self.folds or self.split == "subject", "--folds or --split subject"),
            ("fluid", self.cases, "--cases"),
            ("classes", self.cases, "--cases"),
            ("head", self.preset != "own", "a --preset of the published table"),
        ):
            if getattr(self, name) is not None and not useful:
                raise ValueError(f"--{name} needs {needs}.")
        if self.preset != "own" and (self.backbone or self.weights):
            raise ValueError(
                f"--preset {self.preset} has an encoder of its own; --backbone and --weights are "
                "for our recipe. Its checkpoint is named with --init."
            )
        if self.classes and self.fluid:
            raise ValueError("--fluid is the older form of --classes; expected one of them.")
        if self.initial_inference and not self.init:
            raise ValueError("--initial-inference evaluates a checkpoint: name it with --init.")
        if self.split != "subject":
            super().check()


def data(flags):
    """The labelled cases; groups are subjects.

    Raises:
        ValueError: flags that make no sense, or that nothing would read.
    """
    from keras_meduda import catalog
    from keras_meduda.data.cases import read_cases
    from keras_meduda.data.checks import checked
    from keras_meduda.data.phantoms import drawn, write_oct
    from keras_meduda.data.splits import in_folds
    from keras_meduda.experiment.data import Data
    from keras_meduda.experiment.one_domain import task_of

    flags.check()
    if flags.root:
        split = flags.split or "published"
        cases, task = catalog.chiu(flags.root, split, None if flags.folds else flags.fold)
        table, described = flags.root, f"{flags.root}, split {split}"
    else:
        counts = (3, 2) if flags.smoke else (12, 6)
        table = flags.cases or drawn(write_oct, flags.out, *counts, 128, flags.seed)
        cases, values = read_cases(table), ",".join(map(str, flags.fluid or (1,)))
        task = task_of(flags.classes or (f"fluid={values}",), cases, flags.tolerance)
        described = str(flags.cases or "phantoms of this library")
    labelled = cases[cases["mask"] != ""]
    if lost := len(cases) - len(labelled):
        print(f"{lost} of {len(cases)} B-scans have no mask and are left out")
    if flags.folds:  # the published split has subjects in both parts, a fold has not
        split = "" if flags.root else labelled["split"]
        labelled = labelled.assign(group=labelled.get("subject", labelled["group"]), split=split)
        labelled = in_folds(labelled, flags.folds, flags.fold, flags.seed)
        described = f"{table}, fold {flags.fold} of {flags.folds}"
    needed = set() if flags.initial_inference else {"train", "test"}
    if missing := needed - set(labelled["split"]):
        parts = " and ".join(sorted(missing))
        raise ValueError(f"{table}: no case of split {parts} with a mask; expected some of both.")
    checked(labelled, task)
    labelled = labelled.assign(group=labelled.get("subject", labelled["group"]))
    train, test = (labelled[labelled["split"] == part] for part in ("train", "test"))
    tests = {"initial": labelled} if flags.initial_inference else {"test": test}
    return Data(task, {"source": train}, tests, f"{described}, groups are subjects")


def recipe(flags, data):
    """One training on labels; with --initial-inference none."""
    import keras_meduda as km
    from keras_meduda.experiment.bscans import PUBLISHED, own, published
    from keras_meduda.experiment.recipe import Recipe, Stage
    from keras_meduda.methods.finetuning import discriminative, load_checkpoint
    from keras_meduda.run import Run

    drawn = not (flags.root or flags.cases)
    size = flags.size or (64 if flags.smoke else 96 if drawn else None)
    preset = own(size or 256, flags, flags.smoke)
    if flags.preset != "own":
        preset = published(size or 512, flags.head or "psp", **PUBLISHED[flags.preset])

    def prepare(network):
        if flags.init:
            load_checkpoint(network, flags.init)
        flags.prepare(network)

    def compile_method(method, steps):
        rates = {"encoder": flags.encoder_rate}
        method.compile(discriminative(preset["optimizer"](steps), method.network, rates))

    def method(network, batches):
        return km.methods.Supervised(
            network, data.task.overlapping, preset["loss"], preset.get("aux_weights", {})
        )

    experiment = Recipe(
        title=f"OCT fluid: {flags.preset}",
        network=preset["network"],
        preprocessing=preset["preprocessing"],
        stages={"trained": Stage(method, compile=compile_method, prepare=prepare)},
        steps=flags.steps or (4 if flags.smoke else 200 if drawn else preset["steps"]),
        batch_size=flags.batch_size or preset["batch_size"],
        batches=preset["batches"],
        window=preset.get("window"),
        notes=totals,
    )
    if not flags.initial_inference:
        return experiment
    network = experiment.build(data.task)
    load_checkpoint(network, flags.init)
    run = Run(flags.out, network, data.task, experiment.preprocessing, experiment.window)
    return replace(experiment, stages={}, given={"initial": run})


def totals(run, cases, frame, folder):
    """Pixels counted over all B-scans together, as published, with the background.

    Classes that overlap have no such counts: a pixel may be of several.
    """
    import json

    import keras_meduda as km
    from keras_meduda.data.io import read_mask, replacing
    from keras_meduda.evaluation.predict import predict_all

    if run.task.overlapping:
        return
    found = (p.argmax(axis=-1).astype("uint8") for p in predict_all(run, list(cases["image"])))
    references = (read_mask(mask, run.task) for mask in cases["mask"])
    result = km.metrics.totals(zip(found, references, strict=True), run.task.classes)
    with replacing(folder / "totals.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1))
    names = " and ".join(("background", *run.task.classes))
    yield (
        f"Totals, pixels counted over all B-scans together: mean Dice of {names} "
        f"{100 * result['mdice']:.2f} %, mean IoU {100 * result['miou']:.2f} %."
    )

