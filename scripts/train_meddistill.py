"""MedDistill: boxes prompt a teacher, whose soft masks teach a UNet++ that needs neither.

System: MedDistill (BUCT-IUSRC): detector → foundation model → UNet++ student with ULWR.

    python scripts/train_meddistill.py                             (phantoms, GrabCut as teacher)
    python scripts/train_meddistill.py --cases DATA --boxes boxes.csv --oracle
    python scripts/train_meddistill.py --cases DATA --detector yolo11n.yaml --teacher sam2
    python scripts/train_meddistill.py --cases DATA --teacher network     (feature term on)

DATA is a case table, a folder with images/ and masks/, or a folder of images. Cases of the split
`train` are seen without masks; `labelled` ones train the detector, the `network` teacher and, with
--supervised, the student; `test` ones are scored. Boxes come from --boxes, from --detector, or from
the masks with --jitter, which is an upper figure. Every stage goes on where it stopped.
"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_meduda.cli import run_script

MADE = ("cases.csv", "detector", "boxes.csv", "teacher", "targets.h5", "checkpoints")  # in a run


@dataclass
class MedDistillFlags:
    """Student without masks, from a teacher that boxes prompt."""

    cases: Path | None = None
    """Case table or folder; none: phantoms of brain slices."""
    values: tuple[int, ...] = (1, 255)
    """Mask values that are tumour."""
    boxes: Path | None = None
    """Box table of train and test cases."""
    detector: str | None = None
    """YOLO weights (.pt) that find the boxes, or a model (.yaml) to train on the labelled cases."""
    detector_epochs: int = 100
    """Of that training."""
    jitter: int = 4
    """Pixels by which edges of boxes from masks are moved at random."""
    teacher: Literal["grabcut", "sam2", "network"] = "grabcut"
    """Who makes the soft masks."""
    teacher_weights: str | None = None
    """SAM2's checkpoint, or the run folder of network; none: trained on labelled cases."""
    ulwr: Literal["original", "entropy", "kendall", "dwa"] = "original"
    """How mask and feature level are weighed (see FoundationDistillation)."""
    fixed_weights: tuple[float, float, float] | None = None
    """Fixed weights of BCE, MSE and feature term, instead of --ulwr."""
    refine: float = 0.0
    """Co-learning: how far the student's moving average replaces the teacher's mask at the end."""
    dice: float = 1.0
    """Weight of a Dice term beside the published ones, which alone are slow to see what is small
    (benchmarks/brain2d.md); 0 is the published loss."""
    supervised: bool = False
    """Also learn from the masks of the labelled cases."""
    oracle: bool = False
    """Also train on the masks of the train cases, as the upper end of the comparison."""
    legacy: bool = False
    """Also score as the original does (logits cut at ½)."""
    out: Path = Path("runs/meddistill")
    """Run folder."""
    steps: int = 300
    """Updates of each network."""
    batch_size: int = 8
    """Images in a batch."""
    size: int = 96
    """Side of the network's input, in pixels."""
    filters: tuple[int, ...] = (16, 32, 64, 128)
    """Width of each level; the original has 32 64 128 256 512."""
    deep_supervision: bool = False
    """Train heads at every depth, so that the network can be pruned (docs/distil.md)."""
    learning_rate: float = 1e-3
    """Of the first step; it falls to zero as a cosine."""
    seed: int = 0
    """Of split, jitter, weights, order and augmentation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network."""
    strategy: Literal["none", "mirrored", "multiworker"] = "none"
    """Over all GPUs of this machine (mirrored), or all machines of TF_CONFIG (multiworker)."""
    resume: bool = True
    """Continue what the run folder holds."""
    smoke: bool = False
    """Shrink everything: the same path in seconds, for a first try."""


def main(flags):
    """Detector → teacher → student → evaluation."""
    from keras_meduda.data.cases import read_cases
    from keras_meduda.distribution import is_chief, lost_worker_explained, strategy, total
    from keras_meduda.task import Preprocessing, Task

    if flags.smoke:
        flags.size, flags.filters, flags.steps, flags.batch_size = 32, (4, 8, 16), 12, 2
    began, replicas = time.perf_counter(), strategy(flags.strategy)
    chief = is_chief(replicas)
    task = Task(("tumour",), overlapping=True, values={"tumour": flags.values})
    preprocessing = Preprocessing(size=(flags.size,) * 2, normalise="zero_one")

    def wait():
        """Of several workers one prepares, the others go on when it is done."""
        with lost_worker_explained(replicas, flags.out):
            total(replicas, 1)

    if chief:
        check(flags)
        check_settings(flags)
        cases = prepare_cases(flags, task)
        keep(flags, cases)
        boxes = find_boxes(flags, cases, task)
    wait()
    cases, stage = read_cases(flags.out / "cases.csv"), Stage(flags, task, preprocessing)
    weights, targets = teacher_weights(flags, cases, stage), flags.out / "targets.h5"
    if chief:
        make_targets(flags, targets, boxes, weights)
    wait()
    runs = {"student": stage.distil(cases, targets)}
    if flags.oracle:
        runs["oracle"] = stage.supervised("oracle", cases[cases["split"] == "train"])
    if not chief:
        return  # one worker evaluates and writes
    if ((cases["split"] == "test") & (cases["mask"] != "")).any():
        page = evaluate(flags, cases, targets, task, runs, began)
    else:
        print("no test case has a mask, so no accuracy can be given")
        page = report_label_free(flags, cases, runs["student"], began)
    print(f"report: {page}")


def check(flags):
    """What can be said of the flags before a file is written."""
    weights = Path(flags.teacher_weights) if flags.teacher_weights else None
    if flags.detector and (flags.boxes or flags.teacher == "network"):
        raise ValueError(
            "--detector finds what --boxes has and --teacher network does without; expected one of "
            "the three."
        )
    trained = flags.detector and not flags.detector.endswith(".yaml")
    if trained and not Path(flags.detector).is_file():
        raise FileNotFoundError(f"{flags.detector}: no such weights, expected .pt, or a .yaml.")
    if weights and flags.teacher == "grabcut":
        raise ValueError("--teacher grabcut has no weights; expected no --teacher-weights.")
    if weights and flags.teacher == "network" and not (weights / "network.keras").exists():
        raise FileNotFoundError(f"{weights}: expected a run folder with network.keras.")
    downloadable = re.fullmatch(r"sam2(\.1)?_[tsbl]\.pt", flags.teacher_weights or "")
    if weights and not weights.exists() and not downloadable:
        raise FileNotFoundError(
            f"{weights}: no such weights; expected a file, or a name such as sam2.1_t.pt, which "
            "would be downloaded."
        )
    if not 0 <= flags.refine <= 1:
        raise ValueError(f"--refine {flags.refine}: expected 0 to 1.")
    fixed = flags.fixed_weights or (1.0,)
    if min(fixed) < 0 or not any(fixed[: 2 if flags.teacher == "grabcut" else 3]):
        raise ValueError(
            f"--fixed-weights {fixed}: expected none below 0, and not all 0 (grabcut has no third)."
        )


def check_settings(flags):
    """A run folder is continued with the settings it was begun with."""
    import json

    free = ("out", "resume", "oracle", "legacy")
    file, now = flags.out / "flags.json", {k: str(v) for k, v in vars(flags).items()}
    made = [flags.out / name for name in MADE if (flags.out / name).exists()]
    if made and not file.exists():
        raise ValueError(
            f"{made[0]} is there and was not made by this script, which would replace it; expected "
            "another --out."
        )
    begun = any(path.name != "cases.csv" for path in made)  # else a start that failed at once
    old = json.loads(file.read_text()) if flags.resume and begun else now
    if other := [k for k in now if k not in free and old.get(k) != now[k]]:
        changes = "; ".join(f"{k}: {old.get(k)} there, {now[k]} now" for k in other)
        raise ValueError(
            f"{flags.out} holds a run with other settings ({changes}). Choose another --out, or "
            "start over with --no-resume."
        )


def keep(flags, cases):
    """The settings and the case table, of which everything that follows is made."""
    import json

    from keras_meduda.data.cases import write_cases
    from keras_meduda.data.io import replacing

    with replacing(flags.out / "flags.json") as unfinished:
        unfinished.write_text(json.dumps({k: str(v) for k, v in vars(flags).items()}, indent=1))
    write_cases(cases, flags.out / "cases.csv")


def prepare_cases(flags, task):
    """The case table with its splits, checked."""
    from keras_meduda.data.catalog import cases_at
    from keras_meduda.data.checks import checked
    from keras_meduda.data.phantoms import drawn, write_brain_slices
    from keras_meduda.data.roi import read_boxes
    from keras_meduda.teachers.boxes import check_names

    count = 16 if flags.smoke else 96
    path = flags.cases or drawn(write_brain_slices, flags.out, count, 128, flags.seed)
    cases = split(cases_at(path), flags.seed)
    masks = (cases["mask"] != "").any()
    if flags.boxes:
        read_boxes(flags.boxes)
    own_teacher = flags.teacher == "network" and flags.teacher_weights is None
    if (flags.supervised or own_teacher) and not (cases["split"] == "labelled").any():
        raise ValueError(
            f"{path}: no case of split 'labelled', from which --supervised and the network teacher "
            f"learn; there are {set(cases['split'])}."
        )
    if not (cases["split"] == "train").any():
        raise ValueError(f"{path}: no case of split 'train'; there are {set(cases['split'])}.")
    boxed = flags.teacher == "network" or flags.boxes or flags.detector
    without = cases["mask"][cases["split"] == "train"] == ""
    if flags.oracle and without.any():
        raise ValueError(f"{path}: {without.sum()} train cases without a mask; --oracle needs all.")
    if not boxed and without.all():
        raise ValueError(
            f"{path}: no masks of train cases to take boxes from; expected --boxes or --detector."
        )
    check_names(cases)
    trained = cases["split"] == "train"  # whose masks only boxes or an oracle may see
    seen = (cases["mask"] != "") & (~trained | (flags.oracle or not boxed))
    checked(cases, task, seen | (masks & (cases["split"] == "labelled")), channels=3)
    counts = ", ".join(f"{n} {split}" for split, n in cases["split"].value_counts().items())
    print(f"{len(cases)} cases: {counts}")
    return cases


def split(cases, seed):
    """The split that the table names, or one by groups: without a mask an image can only train."""
    import pandas as pd

    from keras_meduda.data.cases import split_or_given, split_together

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


def find_boxes(flags, cases, task):
    """The box table of the train and test cases."""
    import hashlib

    from keras_meduda.data.cases import states_of, without_masks
    from keras_meduda.teachers.boxes import boxes_from_masks, write_boxes, write_yolo

    if flags.boxes or flags.teacher == "network":
        return flags.boxes
    path = flags.out / "boxes.csv"
    if flags.detector is None:
        print(f"boxes: from masks, edges moved by up to {flags.jitter} px: an upper figure")
        write_boxes(boxes_from_masks(cases, task, flags.jitter, flags.seed), path)
        return path
    weights = flags.detector
    if weights.endswith(".yaml"):
        folder, labelled = flags.out / "detector", cases[cases["split"] == "labelled"]
        weights = folder / "detector.pt"

        def train():
            data = write_yolo(labelled, task, folder / "data", seed=flags.seed)
            options = {"model": flags.detector, "epochs": flags.detector_epochs}
            call("detect_boxes.py", "train", data=data, out=folder, seed=flags.seed, **options)

        once(flags, weights, states_of(labelled), train)

    def predict():
        path.unlink(missing_ok=True)  # of other weights or cases
        table = flags.out / "cases.csv"
        call("detect_boxes.py", "predict", weights=weights, cases=table, out=path)

    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    once(flags, path, [digest, states_of(without_masks(cases))], predict)
    return path


def once(flags, result, made_of, make):
    """Makes a result, unless it is there and was made of the same."""
    import json

    record, text = result.with_suffix(".made_of.json"), json.dumps(made_of)
    if flags.resume and result.exists() and record.exists() and record.read_text() == text:
        return
    record.unlink(missing_ok=True)
    make()
    record.write_text(text)


def teacher_weights(flags, cases, stage):
    """SAM2's checkpoint, or the run folder of the network, which is trained if none is given."""
    if flags.teacher == "network" and flags.teacher_weights is None:
        return stage.supervised("teacher", cases[cases["split"] == "labelled"]).path
    return flags.teacher_weights


def make_targets(flags, path, boxes, weights):
    """The teacher's HDF5 file; the teacher runs in a process of its own."""
    if not flags.resume:
        path.unlink(missing_ok=True)
    options = {"teacher": flags.teacher, "boxes": boxes, "weights": weights}
    call("make_teacher_targets.py", cases=flags.out / "cases.csv", out=path, **options)


def call(script, *words, **options):
    """Another script, in its own process: PyTorch does not share one with TensorFlow."""
    path = Path(__file__).with_name(script)
    for name, value in options.items():
        words += (f"--{name}", value) if value is not None else ()
    done = subprocess.run([sys.executable, path, *map(str, words)])
    if done.returncode:
        raise ValueError(f"{script} ended with code {done.returncode}; its message is above.")


class Stage:
    """A training stage: what all of them share."""

    def __init__(self, flags, task, preprocessing):
        self.flags, self.task, self.preprocessing = flags, task, preprocessing

    def prepare(self, cases, labels):
        """Cases in the network's grid."""
        from keras_meduda.data.cases import without_masks
        from keras_meduda.data.pipeline import prepare, prepared_bytes

        cases = cases if labels else without_masks(cases)
        folder = self.flags.out / "prepared"
        size = prepared_bytes(cases, self.preprocessing) / 1e9
        print(f"{folder}: at most {size:.2f} GB for {len(cases)} cases")
        return prepare(cases, self.task, self.preprocessing, folder, labels)

    def fit(self, folder, build, **batches):
        """Trains what `build` makes of a fresh network."""
        import keras

        import keras_meduda as km
        from keras_meduda.data.pipeline import Batches

        flags = self.flags
        with km.setup(flags.strategy, flags.precision, flags.seed):
            network = km.models.UNetPlusPlus(
                (flags.size, flags.size, 3), 1, flags.filters, flags.deep_supervision
            )
            method = build(network)
            schedule = keras.optimizers.schedules.CosineDecay(flags.learning_rate, flags.steps)
            method.compile(keras.optimizers.Adam(schedule))
        print(f"{type(method).__name__}: {network.count_params():,} parameters → {folder}")
        data = Batches(flags.batch_size, flags.seed, photometry=None, **batches)
        return km.fit(method, data, steps=flags.steps, run_dir=folder, resume=flags.resume)

    def supervised(self, name, cases):
        """A network trained on masks."""
        from keras_meduda.methods import Supervised

        def build(network):
            heads = {head: 1.0 for head in network.output if head.startswith("aux_")}
            return Supervised(network, overlapping=True, aux_weights=heads or None)

        source = self.prepare(cases, labels=True)
        return self.fit(self.flags.out / name, build, source=source)

    def distil(self, cases, targets):
        """The student."""
        from keras_meduda.data.pipeline import add_teacher
        from keras_meduda.methods import FoundationDistillation

        flags, train = self.flags, cases[cases["split"] == "train"]
        prepared = self.prepare(train, labels=False)
        target = add_teacher(prepared, train, targets, flags.out / "prepared")
        width = target.teacher.feature_shape[-1] if target.teacher.features else None
        print(f"the student learns from {len(target.images)} of {len(train)} train cases")
        if width is None:
            print("the teacher gives no embedding: no feature term, weights of the other two")
        source = None
        if flags.supervised:
            source = self.prepare(cases[cases["split"] == "labelled"], labels=True)

        def build(network):
            weights = flags.fixed_weights or flags.ulwr
            return FoundationDistillation(
                network, width, weights, refine=flags.refine, dice=flags.dice
            )

        return self.fit(flags.out, build, source=source, target=target)


def report_label_free(flags, cases, run, began):
    """What can be said of the student without masks; the path of the page."""
    from keras_meduda.evaluation.label_free import label_free
    from keras_meduda.evaluation.report import write_label_free_report

    test = cases[cases["split"] == "test"]
    cases, runs = test if len(test) else cases, {"student": run}
    return write_label_free_report(
        flags.out / "report.html",
        title="MedDistill: student without masks",
        runs=runs,
        frame=label_free(runs, cases),
        cases=cases,
        facts=what_was_run(flags, runs["student"], began),
        trainings={"student": flags.out},
    )


def what_was_run(flags, run, began):
    """Data and teacher, and what every report says, `{term: text}`."""
    from keras_meduda.evaluation.report import about_run, about_session

    return {
        "Data": f"{flags.cases or 'phantoms of this library'}",
        "Teacher": flags.teacher,
        **about_run(run),
        **about_session(began),
    }


def evaluate(flags, cases, targets, task, runs, began):
    """Scores teacher, student and oracle on the test cases, prints one table, writes the report."""
    import json

    from rich.console import Console
    from rich.table import Table

    from keras_meduda.data.io import replacing
    from keras_meduda.evaluation.legacy import evaluate_meddistill
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.evaluation.report import score, write_evaluation, write_report
    from keras_meduda.evaluation.teacher import evaluate_teacher

    test = cases[(cases["split"] == "test") & (cases["mask"] != "")]
    frames, calibration = {"teacher": evaluate_teacher(targets, test, task)}, {}
    for name, run in runs.items():
        frames[name], calibration[name] = score(run, test, task)
    summaries = {name: write_evaluation(flags.out, name, frame) for name, frame in frames.items()}
    seen = {"teacher": "no box" if flags.teacher == "network" else "a box"}
    title = f"{len(test)} test cases of {test['group'].nunique()} groups"
    table = Table("", "sees", "Dice, %", "95 % interval", "HD95 (MedPy's), px", title=title)
    dice = {}
    for name, summary in summaries.items():
        (scores,) = summary["classes"].values()
        dice[name] = scores["dice"]["mean"]
        low, high = (100 * value for value in scores["dice"]["ci95"])
        hd95 = f"{scores['hd95']['mean']:.1f}"
        sees = f"the image and {seen.get(name, 'no box')}"
        table.add_row(name, sees, f"{100 * dice[name]:.1f}", f"{low:.1f} to {high:.1f}", hd95)
    Console().print(table)
    start = time.perf_counter()
    list(predict_all(runs["student"], list(test["image"])))
    seconds = (time.perf_counter() - start) / len(test)
    print(f"student: {1000 * seconds:.0f} ms an image, reading and resizing included")
    if "oracle" in dice:
        print(f"student / oracle: {100 * dice['student'] / max(dice['oracle'], 1e-9):.1f} %")
    if flags.legacy:
        means = evaluate_meddistill(runs["student"], test, task).mean(numeric_only=True)
        print("as the original scores:", " ".join(f"{k} {v:.4f}" for k, v in means.items()))
    with replacing(flags.out / "comparison.json") as unfinished:
        unfinished.write_text(json.dumps({"dice": dice, "seconds_per_image": seconds}, indent=1))
    return write_report(
        flags.out / "report.html",
        title=f"MedDistill: student of {flags.teacher}",
        parts={"test": frames},
        runs=runs,
        cases=test,
        task=task,
        calibration=calibration,
        trainings={name: run.path for name, run in runs.items()},
        notes=("The teacher sees a box around what it is to find, the student does not.",)
        if flags.teacher != "network"
        else (),
        facts=what_was_run(flags, runs["student"], began),
    )


if __name__ == "__main__":
    run_script(main, MedDistillFlags)
