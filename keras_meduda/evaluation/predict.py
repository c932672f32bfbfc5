"""Predictions in an image's own grid, and their evaluation against reference masks."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.io import read_image, read_mask
from keras_meduda.evaluation.metrics import case_metrics, vertical_cup_to_disc_ratio
from keras_meduda.progress import track

BATCH = 8  # images that go through the network together
MEDPY_BOX = 2**20  # pixels up to which MedPy itself makes the reported distances


def predict(run, image, window=None) -> np.ndarray:
    """Class probabilities of one image, in its own grid.

    Args:
        run: what `km.load` or `km.fit` returns.
        image: a path, or an array `(*spatial, channels)` as `km.data.io.read_image` gives it.
        window: `km.SlidingWindow` instead of the run's own, for this call (it is compiled anew).

    Returns:
        float32 array `(*spatial, channels)`; `run.task.masks` makes boolean masks of it.

    Example:
        >>> import keras_meduda as km
        >>> run = getfixture("run")
        >>> probabilities = km.predict(run, np.zeros((50, 40, 3), "uint8"))
        >>> probabilities.shape
        (50, 40, 2)
    """
    if isinstance(image, str | Path):
        image = read_image(str(image)).array
    return next(predict_all(run, [image], window))


def predict_all(run, images, window=None):
    """Probabilities of many images, each in its own grid, one after the other.

    Images are read ahead in threads and go through the network in batches.

    Args:
        run: what `km.load` or `km.fit` returns.
        images: paths (or table cells) and arrays, mixed as you like.
        window: `km.SlidingWindow` instead of the run's own; one as large as the network's grid is
            the whole image at once.

    Yields:
        float32 arrays `(*spatial, channels)`.
    """
    run = replace(run, window=window) if window else run

    def read(image):
        array = image if isinstance(image, np.ndarray) else read_image(image).array
        return run.preprocessing.apply(array), array.shape[:-1]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(images), BATCH):
            inputs, shapes = zip(*pool.map(read, images[first : first + BATCH]), strict=True)
            outputs = run.probabilities(np.stack(inputs)).numpy()
            yield from pool.map(run.preprocessing.invert, outputs, shapes)


def evaluate(run, cases: pd.DataFrame, task=None, window=None, masks=None) -> pd.DataFrame:
    """Compares predictions with reference masks, in the grid and unit of the original images.

    Dice, IoU, HD95 (95th percentile of the pooled surface distances, MedPy's definition), ASSD,
    areas; for a task with the classes cup and disc the vertical cup-to-disc ratio on the rows of
    the cup. Both masks empty: dice 1, distance 0. One empty: dice 0, distance the image's diagonal,
    and the row says which.

    Args:
        run: what `km.load` or `km.fit` returns.
        cases: a case table whose rows all have masks.
        task: declares the values of the mask files, where they differ from the run's own task.
        window: `km.SlidingWindow` instead of the run's own.
        masks: function from probabilities to boolean masks, such as `evaluation.postprocess.beal`.
            Default `task.masks`.

    Returns:
        One row per case and class: `case, domain, group, class, dice, iou, hd95, assd,
        volume_prediction, volume_reference, prediction_empty, reference_empty`, and `vcdr,
        vcdr_reference, vcdr_error` where the task has a cup and a disc.
    """
    task = task or run.task

    def score(item):
        row, probabilities = item
        image_spacing = read_spacing(row, probabilities)
        prediction = (masks or task.masks)(probabilities)
        reference = task.one_hot(read_mask(row.mask, task)).astype(bool)
        reference = reference if task.overlapping else reference[..., 1:]
        method = "medpy" if reference[..., 0].size <= MEDPY_BOX else "scipy"
        rows = []
        for i, name in enumerate(task.classes):
            p, r = prediction[..., i], reference[..., i]
            rows.append(
                {
                    "case": row.case,
                    "domain": row.domain,
                    "group": row.group,
                    "class": name,
                    **case_metrics(p, r, image_spacing, method),
                    "prediction_empty": not p.any(),
                    "reference_empty": not r.any(),
                }
            )
        if {"cup", "disc"} <= set(task.classes):
            cup, disc = task.classes.index("cup"), task.classes.index("disc")
            vcdr, true = (
                vertical_cup_to_disc_ratio(m[..., cup], m[..., disc])
                for m in (prediction, reference)
            )
            rows[cup].update(vcdr=vcdr, vcdr_reference=true, vcdr_error=abs(vcdr - true))
        return rows

    rows = list(cases.itertuples())
    predictions = predict_all(run, [row.image for row in rows], window)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scored = []
        for item in track(zip(rows, predictions, strict=True), len(rows), "evaluating"):
            scored.append(pool.submit(score, item))
    return pd.DataFrame([line for future in scored for line in future.result()])


def read_spacing(row, probabilities):
    """Spacing of a case: 1 px a side for pictures, the header's for volumes."""
    if probabilities.ndim == 3:
        return (1.0, 1.0)
    return read_image(row.image).spacing
