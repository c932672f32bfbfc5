"""Cut square regions around the optic disc out of fundus photographs.

    python scripts/prepare_rois.py --dataset refuge --root REFUGE --out rois
    python scripts/prepare_rois.py --cases cases.csv --boxes boxes.csv --size 800 --out rois

A case with a box is cut by it, any other by its mask. The regions come with a case table,
OUT/cases.csv, whose columns x0, y0, full_width and full_height lead back to the full photograph
(keras_meduda.data.roi.paste). Masks are written as 255 cup, 128 rim, 0 background. Start it again
to go on after an interruption.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from keras_meduda.experiment.one_domain import CaseFlags
from keras_meduda.experiment.options import BoxFlags, Count, Existing, Positive


@dataclass(frozen=True, kw_only=True)
class Flags(BoxFlags, CaseFlags):
    """Where the photographs are, and what to cut."""

    out: Path
    """folder for the regions"""
    classes: tuple[str, ...] | None = None
    """mask values of cup and disc, with --cases; default: cup=255 disc=128,255"""
    dataset: Literal["refuge", "drishti_gs", "rim_one_dl", "rim_one_r3", "fundus_rois"] | None = (
        None
    )
    """a public data set as its owner ships it"""
    boxes: Existing | None = None
    """CSV file case,x0,y0,x1,y1 of discs, in pixels"""
    scale: Positive = 1.6
    """side of a region in diameters of its disc"""
    size: Count | None = None
    """side in pixels, instead of --scale"""
    cup: tuple[int, ...] | None = None
    """older form of --classes: mask values of the cup"""
    disc: tuple[int, ...] | None = None
    """older form of --classes: mask values of the disc, those of the cup among them"""
    background: tuple[int, ...] = (0,)
    """mask values of the background, with --cases"""


def main(flags):
    """Read the table, cut, and say what was done."""
    from keras_meduda.data.boxes import read_boxes
    from keras_meduda.data.catalog import FUNDUS
    from keras_meduda.data.roi import prepare_rois

    if flags.classes and (flags.cup or flags.disc):
        raise ValueError("--cup and --disc are the older form of --classes; expected one of them.")
    cases, task = flags.read()
    if flags.cases and task is None:
        values = {"cup": flags.cup or (255,), "disc": flags.disc or (128, 255)}
        task = replace(FUNDUS, values=values)
    if set(task.classes) != {"cup", "disc"}:
        raise ValueError(f"The classes {', '.join(task.classes)}; expected cup and disc.")
    if flags.cases:
        task = replace(task, background=flags.background, tolerance=flags.tolerance)
    boxes = flags.boxes and read_boxes(flags.boxes, flags.box_form, flags.box_unit, cases)
    table = prepare_rois(cases, task, flags.out, boxes, flags.scale, flags.size)
    print(f"{len(table)} regions, {(table['mask'] != '').sum()} with masks: {flags.out}/cases.csv")
