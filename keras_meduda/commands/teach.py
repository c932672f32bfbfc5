"""Soft masks of a teacher, from which a student learns without masks of its own.

    python scripts/make_teacher_targets.py --teacher grabcut --cases cases.csv --boxes boxes.csv
    python scripts/make_teacher_targets.py --teacher sam --encoder E.onnx --decoder D.onnx \
        --cases cases.csv --boxes boxes.csv                        (needs the extra `sam`)
    python scripts/make_teacher_targets.py --teacher sam2 --weights sam2.1_l.pt --cases cases.csv \
        --boxes boxes.csv                                          (needs the extra `teacher`)
    python scripts/make_teacher_targets.py --teacher network --weights runs/oracle --cases cases.csv

GrabCut, SAM and SAM2 are prompted by boxes; a trained run of this library needs none. With --draws
every box is moved a little, so that the targets tell what they do not know. A volume is
taught slice by slice, across its thickest voxels, from boxes with six corners. Writes a table, and
the targets into the folder `prepared` beside it; start it again to go on after an interruption, or
to repair damaged files.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from keras_meduda.experiment.one_domain import CaseFlags, one_class
from keras_meduda.experiment.options import Existing
from keras_meduda.experiment.prompting import TeacherFlags, together


@dataclass(frozen=True, kw_only=True)
class Flags(TeacherFlags, CaseFlags):
    """Soft masks of a teacher."""

    classes: tuple[str, ...] | None = None
    """The class of --calibrate and its mask values; default: any=1,255. No other mask is read."""
    calibrate: Existing | None = None
    """Labelled cases among --cases, neither trained on nor tested: they set the temperature."""
    values: tuple[int, ...] | None = None
    """Older form of --classes: the mask values alone."""
    weights: str | None = None
    """Checkpoint of sam2 (default sam2.1_l.pt) or sam2_keras (default sam2_hiera_tiny), or run
    folder of network."""
    device: str | None = None
    """Of sam2, such as cpu or 0; by default a GPU where there is one."""
    out: Path = Path("targets.csv")
    """The table of targets."""


def main(flags):
    """Runs the teacher and says how it went."""
    from keras_meduda.data.catalog import cases_at
    from keras_meduda.data.io import read_spacing
    from keras_meduda.data.nifti import slice_axis
    from keras_meduda.run import settings_of
    from keras_meduda.teachers.targets import calibrate, make_targets, open_targets

    flags.check_teacher(flags.weights, "--weights")
    if flags.device and flags.teacher != "sam2":
        raise ValueError(f"--teacher {flags.teacher} takes no --device; sam2 alone does.")
    if flags.teacher == "network" and flags.weights:
        settings_of(flags.weights)
    if flags.out.exists():
        open_targets(flags.out)  # or something else would be replaced
    cases, task = flags.read()
    if not flags.boxes and flags.teacher != "network":
        raise ValueError(f"--teacher {flags.teacher} is prompted by boxes: expected --boxes FILE.")
    volumes = flags.sees_volumes(cases)
    axis = slice_axis(read_spacing(cases["image"].iloc[0])) if volumes else None
    boxes, teacher = together(partial(flags.prompts, cases), partial(build, flags, axis))
    for case in cases.itertuples() if teacher.prompted else ():
        if not len(boxes[case.case]):
            print(f"warning: {case.image}: no box, so that it teaches nothing", file=sys.stderr)
    start = time.perf_counter()
    done = make_targets(flags.out, cases, teacher, boxes)
    seconds = time.perf_counter() - start
    failed = done[done["status"] == "failed"]
    print(
        f"{flags.out}: {len(done) - len(failed)} of {len(done)} cases taught by {teacher.name} in "
        f"{seconds:.1f} s ({1000 * seconds / len(done):.0f} ms a case)"
    )
    for reason, names in failed.groupby("reason")["case"]:
        first = ", ".join(names.head(5))
        print(f"{len(names)} without a target, skipped in training: {reason}: {first}")
    if flags.calibrate:
        task = one_class(flags, task, cases, "any")
        print(f"temperature {calibrate(flags.out, cases_at(flags.calibrate), task):g}")


def build(flags, axis=None):
    """The teacher; only its own framework is loaded.

    Args:
        flags: who teaches, and how it is asked.
        axis: across the slices of volumes. Default `None`: images are pictures.
    """
    if flags.teacher == "network":
        if flags.weights is None:
            raise ValueError("--teacher network: expected --weights RUN, a trained run's folder.")
        from keras_meduda.experiment.backend import load_backend
        from keras_meduda.run import load
        from keras_meduda.teachers.network import network

        load_backend()
        return network(load(flags.weights))
    from keras_meduda.teachers.doubt import averaged, jittered

    teachers = [prompted(name, flags) for name in flags.teacher.split("+")]
    if flags.draws:
        teachers = [jittered(teacher, flags.draws) for teacher in teachers]
    teacher = averaged(*teachers) if len(teachers) > 1 else teachers[0]
    if axis is None:
        return teacher
    from keras_meduda.teachers.volumes import by_slices

    return by_slices(teacher, axis)


def prompted(name, flags):
    """A teacher that boxes prompt."""
    if name == "grabcut":
        from keras_meduda.teachers.grabcut import grabcut

        return grabcut()
    if name == "sam2":
        from keras_meduda.teachers.sam2 import sam2

        return sam2(flags.weights or "sam2.1_l.pt", flags.device)
    if name == "sam2_keras":
        from keras_meduda.experiment.backend import load_backend

        load_backend()
        from keras_meduda.teachers.sam2_keras import VARIANT, sam2_keras

        return sam2_keras(flags.weights or VARIANT)
    from keras_meduda.teachers.sam import sam

    return sam(flags.encoder, flags.decoder)
