"""A YOLO detector through ultralytics: trained on boxes, it prompts the teacher.

Needs the extra `keras-meduda[teacher]`; ultralytics is AGPL-3.0.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.io import read_image, replacing
from keras_meduda.progress import track
from keras_meduda.teachers._ultralytics import load_ultralytics, weights_file
from keras_meduda.teachers.boxes import COLUMNS, as_rgb, check_names, sure_or_best


def train(
    data,
    out,
    model="yolo11n.yaml",
    epochs: int = 100,
    size: int = 256,
    batch: int = 16,
    seed: int = 0,
    device=None,
) -> Path:
    """Trains a detector and returns its best weights, `<out>/detector.pt`.

    ultralytics writes weights as it goes; this file is there once the training has finished.

    Args:
        data: `data.yaml` of a YOLO data set, as `write_yolo` makes it.
        out: folder of ultralytics' results.
        model: a `.yaml` (random weights; default `"yolo11n.yaml"`) or a `.pt` to go on from.
        epochs: passes through the data. Default 100.
        size: side of the network's input, in pixels. Default 256.
        batch: images a step. Default 16.
        seed: of weights, order and augmentation. Default 0.
        device: such as `"cpu"` or `"0"`. Default: a GPU where there is one.

    Raises:
        ImportError: ultralytics is missing.
        FileNotFoundError: the weights or the data are not there.
    """
    yolo = load_ultralytics().YOLO
    if not Path(data).is_file():
        raise FileNotFoundError(
            f"{data}: no such file, expected data.yaml, as meduda boxes writes it."
        )
    detector = yolo(str(model) if str(model).endswith(".yaml") else str(weights_file(model)))
    out = Path(out).absolute()
    finished = out / "detector.pt"
    finished.unlink(missing_ok=True)
    detector.train(
        data=str(data),
        epochs=epochs,
        imgsz=size,
        batch=batch,
        seed=seed,
        device=device,
        project=str(out.parent),
        name=out.name,
        exist_ok=True,
        plots=False,
        verbose=False,
        workers=0,
    )
    with replacing(finished) as unfinished:
        shutil.copyfile(out / "weights" / "best.pt", unfinished)
    return finished


def detect(
    cases: pd.DataFrame,
    weights,
    confidence: float = 0.5,
    least: float = 0.05,
    size: int = 256,
    device=None,
) -> pd.DataFrame:
    """The boxes that a detector finds, in pixels of the original images.

    Boxes below `confidence` count only where a case has no other: then its best one, whose score
    says how much the case weighs in training.

    Args:
        cases: a case table; masks are not read.
        weights: a `.pt` file.
        confidence: lowest score of boxes that stand beside others. Default 0.5.
        least: lowest score of any box. Default 0.05.
        size: side of the network's input, in pixels. Default 256.
        device: such as `"cpu"` or `"0"`. Default: a GPU where there is one.

    Returns:
        A box table; a case in which nothing is found has no row.

    Raises:
        ImportError: ultralytics is missing.
        FileNotFoundError: the weights are not there.
        ValueError: they find several classes.
    """
    check_names(cases)
    detector, rows = load_ultralytics().YOLO(str(weights_file(weights))), []
    if len(detector.names) > 1:
        names = ", ".join(list(detector.names.values())[:5])
        raise ValueError(
            f"{weights}: a detector of {len(detector.names)} classes ({names}); expected one that "
            "finds tumours alone, as meduda detect trains it."
        )
    for case in track(cases.itertuples(), len(cases), "detecting"):
        bgr = np.ascontiguousarray(as_rgb(read_image(case.image).array)[..., ::-1])
        found = detector.predict(
            bgr, imgsz=size, conf=min(least, confidence), device=device, verbose=False
        )
        boxes = found[0].boxes
        height, width = bgr.shape[:2]
        corners = boxes.xyxy.cpu().numpy().clip(0, [width, height, width, height])
        for corner, score in zip(corners, boxes.conf.cpu().tolist(), strict=True):
            if (corner[2:] - corner[:2]).min() > 1:
                rows.append((case.case, *corner.tolist(), score))
    return sure_or_best(pd.DataFrame(rows, columns=COLUMNS), confidence)
