"""A teacher that boxes prompt: its cases, its boxes, and the file of its soft masks."""

import dataclasses
import hashlib
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cache import contents, made, stored
from keras_meduda.data.cases import (
    are_volumes,
    split_or_given,
    split_together,
    states_of,
    without_masks,
    write_cases,
)
from keras_meduda.data.catalog import cases_at
from keras_meduda.data.checks import checked
from keras_meduda.data.phantoms import drawn, write_brain, write_brain_slices
from keras_meduda.data.splits import in_folds
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.one_domain import one_class
from keras_meduda.experiment.prompting import together
from keras_meduda.progress import track
from keras_meduda.teachers.boxes import boxes_from_masks, check_names, write_boxes, write_yolo
from keras_meduda.teachers.sam import sam
from keras_meduda.teachers.sam2_keras import VARIANT
from keras_meduda.teachers.targets import calibrate


def read(flags) -> Data:
    """The cases with their splits, every file looked at.

    Raises:
        ValueError: flags that contradict each other, or parts without the cases that they need.
        DataError: all that is wrong with the table and its files.
    """
    _check(flags)
    if flags.drawn:
        path, cases, task = *_phantoms(flags), None
    else:
        (cases, task), path = flags.read(), flags.place
    volumes = flags.sees_volumes(cases)
    _check_rank(flags, volumes)
    task = one_class(flags, task, cases)
    cases = _folded(cases, flags) if flags.folds else _split(cases, flags.seed)
    train, labelled, test = (cases[cases["split"] == s] for s in ("train", "labelled", "test"))
    steps = [partial(flags.prompts, cases)]
    if flags.encoder:  # a file of another model is told before a detector trains
        steps.append(partial(sam, flags.encoder, flags.decoder))
    together(*steps)
    own_teacher = flags.teacher == "network" and flags.teacher_weights is None
    wanted = flags.supervised or flags.calibrate or own_teacher
    if wanted and not (labelled["mask"] != "").any():
        raise ValueError(
            f"{path}: no case of split 'labelled' with a mask, which --supervised, --calibrate and "
            f"the network teacher need; there are {set(cases['split'])}."
        )
    if not len(train):
        raise ValueError(f"{path}: no case of split 'train'; there are {set(cases['split'])}.")
    boxed = flags.teacher == "network" or flags.boxes or flags.detector
    without = train["mask"] == ""
    if flags.oracle and without.any():
        raise ValueError(f"{path}: {without.sum()} train cases without a mask; --oracle needs all.")
    if not boxed and without.all():
        raise ValueError(
            f"{path}: no masks of train cases to take boxes from; expected --boxes or --detector."
        )
    check_names(cases)
    trained = cases["split"] == "train"  # whose masks only boxes or an oracle may see
    masks = (cases["mask"] != "").any()
    seen = (cases["mask"] != "") & (~trained | (flags.oracle or not boxed))
    channels = 1 if volumes else 3
    checked(cases, task, seen | (masks & (cases["split"] == "labelled")), channels)
    parts = {"target": without_masks(train), "few": labelled}
    parts["oracle"] = train if flags.oracle else train.iloc[:0]
    described = str(flags.place or "phantoms of this library")
    return Data(task, parts, {"test": test}, described, prompted=cases)


def teach(flags, data, options, runs, chief) -> Path:
    """Makes the teacher's targets in `OUT/teaching/targets.csv`, in a process of its own.

    Args:
        flags: which boxes and which teacher.
        data: as `read` gives them.
        options: of the experiment.
        runs: the networks so far; the one named `"teacher"` teaches where it is there.
        chief: whether this worker writes.

    Returns:
        The file.
    """
    folder = options.out / "teaching"
    path = folder / "targets.csv"
    if not chief:
        return path
    write_cases(data.prompted, folder / "cases.csv")
    weights = runs["teacher"].path if "teacher" in runs else flags.teacher_weights
    boxes = find_boxes(flags, data, folder)
    if not options.resume:
        path.unlink(missing_ok=True)
    options = {"teacher": flags.teacher, "boxes": boxes, "weights": weights}
    options |= {"encoder": flags.encoder, "decoder": flags.decoder, "draws": flags.draws}
    if flags.boxes:
        options |= {"box_form": flags.box_form, "box_unit": flags.box_unit}
    call("teach", cases=folder / "cases.csv", out=path, **options)
    if flags.calibrate:
        few = data.parts["few"]
        print(f"temperature {calibrate(path, few[few['mask'] != ''], data.task):g}")
    return path


def by_source_only(data, options, runs, chief):
    """The network that was trained on the source: it teaches itself what it sees in the target."""
    return runs["source_only"]


def taught_by(prepared, run, folder):
    """Adds what a network says of prepared images: one soft mask a class, in its own grid.

    Args:
        prepared: the images, on the grid of the run.
        run: the teacher.
        folder: where prepared arrays are kept.
    """
    from keras_meduda.data.pipeline.prepared import Taught

    weights = hashlib.sha256()
    for array in run.network.get_weights():
        weights.update(np.ascontiguousarray(array).tobytes())
    first = 0 if run.task.overlapping else 1  # without the background
    files, variances, entropies = [], [], []
    for image in track(prepared.images, len(prepared.images), "teaching"):

        def write(file, image=image):
            x = prepared.preprocessing.normalised(prepared.image(image)[None])
            file.write_bytes(run.probabilities(x)[0, ..., first:].astype("float16").tobytes())

        files.append(stored(folder, "teacher", [Path(image).stem, weights.hexdigest()], write))
        p = np.clip(np.fromfile(files[-1], "float16").astype("float32"), 1e-6, 1 - 1e-6)
        variances.append(float(p.var()))
        entropies.append(float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p))))
    classes = len(run.task.classes)
    taught = Taught(tuple(files), tuple(variances), tuple(entropies), classes=classes)
    return dataclasses.replace(prepared, teacher=taught)


def find_boxes(flags, data, folder) -> Path | None:
    """The box table of the train and test cases."""
    if flags.boxes or flags.teacher == "network":
        return flags.boxes
    path = folder / "boxes.csv"
    if flags.detector is None:
        usual, unit = (2, "voxels") if are_volumes(data.prompted) else (4, "px")
        jitter = usual if flags.jitter is None else flags.jitter
        print(f"boxes: from masks, edges moved by up to {jitter} {unit}: an upper figure")
        write_boxes(boxes_from_masks(data.prompted, data.task, jitter, flags.seed), path)
        return path
    weights = flags.detector
    if weights.endswith(".yaml"):
        weights = folder / "detector" / "detector.pt"

        def train():
            place = weights.parent
            dataset = write_yolo(data.parts["few"], data.task, place / "data", seed=flags.seed)
            how = {"model": flags.detector, "epochs": flags.detector_epochs, "seed": flags.seed}
            call("detect", "train", data=dataset, out=place, **how)

        if not flags.resume:
            weights.unlink(missing_ok=True)
        made(weights, states_of(data.parts["few"]), train)

    def predict():
        call("detect", "predict", weights=weights, cases=folder / "cases.csv", out=path)

    files = [Path(weights)]
    if files[0].is_dir():  # the student of an earlier round
        files = [files[0] / name for name in ("network.keras", "config.json")]
    return made(path, [contents(files), states_of(without_masks(data.prompted))], predict)


def teacher_files(flags) -> list[Path]:
    """The files that hold what the teacher has learnt."""
    if flags.teacher == "network":
        return [Path(flags.teacher_weights or flags.out / "teacher") / "network.keras"]
    downloaded = {"sam2": "sam2.1_l.pt", "sam2_keras": VARIANT}.get(flags.teacher)
    weights = flags.teacher_weights or downloaded
    return [Path(file) for file in (flags.encoder, flags.decoder, weights) if file]


def size_of(files) -> str:
    """What files of weights take, in words."""
    if not files:
        return "it has no weights"
    if not all(file.is_file() for file in files):
        return "its weights are not here"
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def call(command, *words, **options):
    """Another command, in its own process: PyTorch does not share one with TensorFlow.

    Raises:
        ValueError: it ended with an error.
    """
    for name, value in options.items():
        words += (f"--{name}", value) if value is not None else ()
    done = subprocess.run([sys.executable, "-m", "keras_meduda", command, *map(str, words)])
    if done.returncode:
        raise ValueError(f"{command} ended with code {done.returncode}; its message is above.")


def _phantoms(flags):
    """Drawn slices of brains, or whole brains with --volumes: their table, and its cases."""
    if flags.volumes:
        count, size = (8, (24, 28, 20)) if flags.smoke else (24, (44, 48, 40))
        path = drawn(write_brain, flags.out, count, size, flags.seed, ("flair",))
        return path, cases_at(path).assign(split="")  # of three parts, as that of slices
    count = 16 if flags.smoke else 96
    path = drawn(write_brain_slices, flags.out, count, 128, flags.seed)
    return path, cases_at(path)


def _split(cases, seed):
    """The split that the table names, or one by groups: without a mask an image can only train."""
    if (cases["split"] != "").any():
        return split_or_given(cases, {}, seed)
    masked = cases["mask"] != ""
    shares = {"labelled": 0.15, "train": max(0.0, masked.mean() - 0.35), "test": 0.2}
    parts = split_together(cases[masked], shares, seed)
    shown = parts["group"][parts["split"] != "train"]
    rest = cases[~masked & ~cases["group"].isin(shown)].assign(split="train")
    if lost := len(cases) - len(parts) - len(rest):
        print(f"{lost} cases without a mask are left out: their groups are labelled or tested")
    return pd.concat([parts, rest]).sort_index()


def _folded(cases, flags):
    """A fold of the cases with masks is tested; the others are split as they are, or by groups."""
    cases = split_or_given(cases, {"": 1})  # a split in every row, or in none
    folded = in_folds(cases[cases["mask"] != ""], flags.folds, flags.fold, flags.seed)
    tested = folded[folded["split"] == "test"]
    rest = cases[(cases["split"] != "test") & ~cases["group"].isin(tested["group"])]
    if (rest["split"] == "").all():
        masked = rest[rest["mask"] != ""]
        parts = split_together(masked, {"labelled": 0.15, "train": 0.65}, flags.seed)
        shown = parts["group"][parts["split"] == "labelled"]
        others = rest[(rest["mask"] == "") & ~rest["group"].isin(shown)].assign(split="train")
        rest = pd.concat([parts, others])
    return pd.concat([tested, rest]).sort_index()


def _check(flags):
    """What can be said of the flags before a file is written."""
    weights = Path(flags.teacher_weights) if flags.teacher_weights else None
    if flags.detector and (flags.boxes or flags.teacher == "network"):
        raise ValueError(
            "--detector finds what --boxes has and --teacher network does without; expected one of "
            "the three."
        )
    flags.check_teacher(weights, "--teacher-weights")
    learnt = (flags.detector or "").endswith(".yaml") or flags.teacher == "network" and not weights
    if flags.calibrate and (learnt or flags.supervised):
        raise ValueError(
            "--calibrate needs labelled cases from which nothing learns; here a detector, the "
            "network teacher or --supervised does."
        )
    if flags.detector and not flags.detector.endswith(".yaml"):
        _check_detector(Path(flags.detector), flags.out)
    if weights and flags.teacher == "network":
        _check_run(weights)
    names = r"[^./]+" if flags.teacher == "sam2_keras" else r"sam2(\.1)?_[tsbl]\.pt"
    downloadable = re.fullmatch(names, flags.teacher_weights or "")
    if weights and not weights.exists() and not downloadable:
        raise FileNotFoundError(
            f"{weights}: no such weights; expected a file, or a name that would be downloaded: "
            f"sam2.1_t.pt of sam2, {VARIANT} of sam2_keras."
        )
    if not 0 <= flags.refine <= 1:
        raise ValueError(f"--refine {flags.refine}: expected 0 to 1.")
    fixed = flags.fixed_weights or (1.0,)
    if not any(fixed[: 2 if flags.teacher == "grabcut" else 3]):
        raise ValueError(f"--fixed-weights {fixed}: expected not all 0 (grabcut has no third).")


def _check_detector(path, out):
    """Refuses weights that are not there, and a run folder that is none or is to be written."""
    if path.is_dir():
        _check_run(path)
        if path.resolve() == out.resolve():
            raise ValueError(
                f"--detector {path} is --out as well; expected another folder for a second round."
            )
    elif not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such weights, expected .pt, or a .yaml, or a run folder."
        )


def _check_run(folder):
    if not (folder / "network.keras").exists():
        raise FileNotFoundError(f"{folder}: expected a run folder with network.keras.")


def _check_rank(flags, volumes):
    """Refuses what pictures alone, or volumes alone, can have."""
    if not volumes:
        if flags.patch:
            raise ValueError("--patch is for volumes; received pictures, which are seen whole.")
        return
    if flags.detector and not Path(flags.detector).is_dir():
        raise ValueError(
            f"--detector {flags.detector}: YOLO sees pictures alone; received volumes: expected "
            "--boxes with six corners, a student's run folder, or boxes from masks (--jitter)."
        )
    if flags.legacy:
        raise ValueError("--legacy: the original scores pictures alone; received volumes.")
    if flags.fixed_weights and not any(flags.fixed_weights[:2]):
        raise ValueError(
            f"--fixed-weights {flags.fixed_weights}: expected not all 0 of the first two (slices "
            "of volumes give no third)."
        )
