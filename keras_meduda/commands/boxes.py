"""Boxes around tumours, from masks: a box table, and a YOLO data set for a detector.

    python scripts/prepare_boxes.py --cases cases.csv --out boxes
    python scripts/prepare_boxes.py --cases DATA --jitter 4 --out boxes    (DATA/images, DATA/masks)

Writes OUT/boxes.csv (case, x0, y0, x1, y1, score in pixels) and OUT/yolo/ (images, labels,
data.yaml; an image without a tumour gets an empty label). The YOLO labels are never jittered. Boxes
of volumes have six corners, in voxels (case, x0, y0, z0, x1, y1, z1, score), and no YOLO data.
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.experiment.one_domain import CaseFlags, one_class
from keras_meduda.experiment.options import NotNegative


@dataclass(frozen=True, kw_only=True)
class Flags(CaseFlags):
    """Boxes around tumours, from masks."""

    classes: tuple[str, ...] | None = None
    """The class and its mask values; default: tumour=1,255."""
    out: Path = Path("boxes")
    """Folder for the table and the YOLO data set."""
    split: str | None = None
    """Only cases of this split."""
    values: tuple[int, ...] | None = None
    """Older form of --classes: the mask values alone."""
    jitter: NotNegative = 0
    """Pixels, or voxels, by which edges of the table's boxes are moved at random, as a detector
    does."""
    seed: NotNegative = 0
    """Of the jitter, and of the detector's validation part."""
    overwrite: bool = False
    """Replace an earlier boxes.csv."""


def main(flags):
    """Reads masks and writes boxes."""
    from keras_meduda.data.cases import are_volumes
    from keras_meduda.teachers.boxes import boxes_from_masks, write_boxes, write_yolo

    if (flags.out / "boxes.csv").exists() and not flags.overwrite:
        raise ValueError(f"{flags.out}/boxes.csv is there; expected another --out, or --overwrite.")
    cases, task = flags.read()
    task = one_class(flags, task, cases)
    if flags.split is not None:
        if flags.split not in (splits := set(cases["split"])):
            raise ValueError(f"{flags.place}: no case of split {flags.split!r}, of {splits}.")
        cases = cases[cases["split"] == flags.split]
    boxes = boxes_from_masks(cases, task, flags.jitter, flags.seed)
    if are_volumes(cases):
        print("no YOLO data: such a detector sees pictures alone")
    else:
        print(f"YOLO data: {write_yolo(cases, task, flags.out / 'yolo', seed=flags.seed)}")
    write_boxes(boxes, flags.out / "boxes.csv")  # last: there is a table where all went well
    without = len(cases) - boxes["case"].nunique()
    print(f"{len(boxes)} boxes in {flags.out}/boxes.csv; {without} of {len(cases)} cases without")
