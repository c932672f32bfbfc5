"""A YOLO detector of tumours: train it on boxes, then let it find them (needs the extra `teacher`).

    python scripts/detect_boxes.py train --data boxes/yolo/data.yaml --out detector
    python scripts/detect_boxes.py predict --weights detector/detector.pt --cases scans/ \
        --out boxes.csv

YOLO runs on a GPU where there is one, and sees pictures alone. Boxes are in pixels of the original
images, those of a student of volumes in voxels.
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.experiment.one_domain import CaseFlags
from keras_meduda.experiment.options import Count, Existing, NotNegative


@dataclass
class Train:
    """Train a detector on a YOLO data set that meduda boxes writes."""

    data: Existing
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


@dataclass(frozen=True, kw_only=True)
class Predict(CaseFlags):
    """Find boxes and write them as a table."""

    weights: str
    """Weights of the detector (.pt), or the run folder of a student, for a second round."""
    out: Path = Path("boxes.csv")
    """Box table: case, x0, y0, x1, y1, score."""
    confidence: float = 0.5
    """Lowest score of boxes that stand beside others."""
    least: float = 0.05
    """Lowest score of the best box of a case that has no other; the score weighs it in training."""
    size: Count = 256
    """Side of the network's input, in pixels."""
    device: str | None = None
    """Such as cpu or 0; by default a GPU where there is one."""
    overwrite: bool = False
    """Replace an earlier table."""


Flags = Train | Predict


def main(flags):
    """Trains or predicts."""
    from keras_meduda.teachers.boxes import write_boxes

    if isinstance(flags, Train):
        from keras_meduda.teachers import yolo

        print(yolo.train(**vars(flags)))
        return
    if flags.out.exists() and not flags.overwrite:
        raise ValueError(f"--out {flags.out} is there; expected another name, or --overwrite.")
    cases, _ = flags.read()
    boxes = find(cases, flags)
    write_boxes(boxes, flags.out)
    found = boxes["case"].nunique()
    print(f"{len(boxes)} boxes in {found} of {len(cases)} cases: {flags.out}")


def find(cases, flags):
    """The boxes of a detector, or of a student's own masks."""
    if not Path(flags.weights).is_dir():
        from keras_meduda.data.cases import are_volumes
        from keras_meduda.teachers import yolo

        if are_volumes(cases):
            raise ValueError(
                f"--weights {flags.weights}: a YOLO detector sees pictures alone; received "
                f"{cases['image'].iloc[0]}, a volume: expected the run folder of a student."
            )
        how = flags.confidence, flags.least, flags.size, flags.device
        return yolo.detect(cases, flags.weights, *how)
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.experiment.backend import load_backend
    from keras_meduda.run import load
    from keras_meduda.teachers.boxes import boxes_from_probabilities

    load_backend()
    run = load(flags.weights)
    return boxes_from_probabilities(cases, predict_all(run, list(cases["image"])), run.task)
