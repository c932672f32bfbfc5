"""Soft masks of a teacher, from which a student learns without masks of its own.

    python scripts/make_teacher_targets.py --teacher grabcut --cases cases.csv --boxes boxes.csv
    python scripts/make_teacher_targets.py --teacher sam2 --weights sam2.1_l.pt --cases cases.csv \
        --boxes boxes.csv                                          (needs the extra `teacher`)
    python scripts/make_teacher_targets.py --teacher network --weights runs/oracle --cases cases.csv

GrabCut and SAM2 are prompted by boxes; a trained run of this library needs none. Writes a table,
and the targets into the folder `prepared` beside it; start it again to go on after an interruption,
or to repair damaged files.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KERAS = False  # it may load PyTorch, which does not share a process with TensorFlow


@dataclass
class Flags:
    """Soft masks of a teacher."""

    cases: Path
    """Case table, or folder of images; masks are not read."""
    teacher: Literal["grabcut", "sam2", "network"] = "grabcut"
    """Who teaches."""
    boxes: Path | None = None
    """Box table: case, x0, y0, x1, y1 in pixels."""
    box_form: Literal["corners", "xywh", "centre"] = "corners"
    """Columns of --boxes: x0,y0,x1,y1, x,y,width,height (COCO) or xc,yc,width,height (YOLO)."""
    box_unit: Literal["px", "share"] = "px"
    """Pixels, or shares of the image's width and height."""
    weights: str | None = None
    """Checkpoint of sam2 (default sam2.1_l.pt), or run folder of network."""
    device: str | None = None
    """Of sam2, such as cpu or 0; by default a GPU where there is one."""
    out: Path = Path("targets.csv")
    """The table of targets."""


def main(flags):
    """Runs the teacher and says how it went."""
    from keras_meduda.data.boxes import read_boxes
    from keras_meduda.data.catalog import cases_at
    from keras_meduda.teachers.boxes import boxes_by_case
    from keras_meduda.teachers.targets import make_targets, open_targets

    if flags.out.exists():
        open_targets(flags.out)  # or something else would be replaced
    cases, boxes = cases_at(flags.cases), None
    if cases.empty:
        raise ValueError(f"{flags.cases}: received 0 cases, expected at least one.")
    if flags.boxes:
        boxes = read_boxes(flags.boxes, flags.box_form, flags.box_unit, cases)
        boxes = boxes_by_case(boxes, cases, flags.boxes)
    elif flags.teacher != "network":
        raise ValueError(f"--teacher {flags.teacher} is prompted by boxes: expected --boxes FILE.")
    teacher, start = build(flags), time.perf_counter()
    done = make_targets(flags.out, cases, teacher, boxes)
    seconds = time.perf_counter() - start
    failed = done[done["status"] == "failed"]
    print(
        f"{flags.out}: {len(done) - len(failed)} of {len(done)} cases taught by {teacher.name} in "
        f"{seconds:.1f} s ({1000 * seconds / len(done):.0f} ms a case)"
    )
    for reason, cases in failed.groupby("reason")["case"]:
        names = ", ".join(cases.head(5))
        print(f"{len(cases)} without a target, skipped in training: {reason}: {names}")


def build(flags):
    """The teacher; only its own framework is loaded."""
    if flags.teacher == "grabcut":
        from keras_meduda.teachers.grabcut import grabcut

        return grabcut()
    if flags.teacher == "sam2":
        from keras_meduda.teachers.sam2 import sam2

        return sam2(flags.weights or "sam2.1_l.pt", flags.device)
    if flags.weights is None:
        raise ValueError("--teacher network: expected --weights RUN, the folder of a trained run.")
    from keras_meduda.teachers.network import network
    from keras_meduda.training import load

    return network(load(flags.weights))
