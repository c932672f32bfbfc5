"""A YOLO detector of tumours: train it on boxes, then let it find them (needs the extra `teacher`).

    python scripts/detect_boxes.py train --data boxes/yolo/data.yaml --out detector
    python scripts/detect_boxes.py predict --weights detector/detector.pt --cases scans/ \
        --out boxes.csv

Runs on a GPU where there is one. Boxes are in pixels of the original images.
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.experiment.options import Count, NotNegative

KERAS = False  # it may load PyTorch, which does not share a process with TensorFlow


@dataclass
class Train:
    """Train a detector on a YOLO data set of prepare_boxes.py."""

    data: Path
    """Its data.yaml."""
    out: Path = Path("detector")
    """Folder of the results; OUT/detector.pt is there once the training has finished."""
    model: str = "yolo11n.yaml"
    """A .yaml starts from random weights, a .pt goes on from trained ones."""
    epochs: Count = 100
    """Passes through the data."""
    size: Count = 256
    """Side of the network's input, in pixels."""
    batch: Count = 16
    """Images a step."""
    seed: NotNegative = 0
    """Of weights, order and augmentation."""
    device: str | None = None
    """Such as cpu or 0; by default a GPU where there is one."""


@dataclass
class Predict:
    """Find boxes and write them as a table."""

    weights: str
    """Weights of the detector (.pt)."""
    cases: Path
    """Case table, or folder of images."""
    out: Path = Path("boxes.csv")
    """Box table: case, x0, y0, x1, y1, score."""
    confidence: float = 0.5
    """Lowest score."""
    size: Count = 256
    """Side of the network's input, in pixels."""
    device: str | None = None
    """Such as cpu or 0; by default a GPU where there is one."""
    overwrite: bool = False
    """Replace an earlier table."""


Flags = Train | Predict


def main(flags):
    """Trains or predicts."""
    from keras_meduda.data.catalog import cases_at
    from keras_meduda.teachers import yolo
    from keras_meduda.teachers.boxes import write_boxes

    if isinstance(flags, Train):
        print(yolo.train(**vars(flags)))
        return
    if flags.out.exists() and not flags.overwrite:
        raise ValueError(f"--out {flags.out} is there; expected another name, or --overwrite.")
    cases = cases_at(flags.cases)
    boxes = yolo.detect(cases, flags.weights, flags.confidence, flags.size, flags.device)
    write_boxes(boxes, flags.out)
    found = boxes["case"].nunique()
    print(f"{len(boxes)} boxes in {found} of {len(cases)} cases: {flags.out}")
