"""Figures as an original publication's code computes them, for comparison with its tables alone."""

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from keras_meduda.data.checks import read_reference
from keras_meduda.evaluation.predict import predict_all

LOGIT = 0.5  # the original cuts logits, not probabilities, at ½: a probability of 0.6225


def evaluate_meddistill(run, cases: pd.DataFrame, task=None) -> pd.DataFrame:
    """Scores a student as MedDistill's evaluation does: logits above ½ count as foreground.

    Dice = 2|A∩B| / (|A| + |B| + 1e-8), IoU = |A∩B| / (|A∪B| + 1e-8), Hausdorff distance over all
    pixels of the foreground, larger direction, in pixels; NaN where a mask is empty, so that its
    mean leaves such cases out. Two empty masks score a Dice of 0. `km.evaluate` is the honest one.

    The original also skips the stretch to 0…255 that its training applied; here the run's own
    preprocessing is used, which stretches no 8-bit image in either.

    Args:
        run: what `km.load` or `km.fit` returns; a task of one class.
        cases: a case table whose rows all have masks.
        task: declares the values of the mask files, where they differ from the run's own task.

    Returns:
        A frame `case, dice, iou, hausdorff`.

    Raises:
        DataError: an image that cannot be predicted, or a mask of another shape than its image.

    Source:
        `predict_eval.py` of MedDistill (BUCT-IUSRC).
    """
    task, rows = task or run.task, []
    predictions = predict_all(run, list(cases["image"]))
    for case, probabilities in zip(cases.itertuples(), predictions, strict=True):
        a = probabilities[..., -1] > 1.0 / (1.0 + np.exp(-LOGIT))
        b = read_reference(case, task) > 0
        both = np.count_nonzero(a & b)
        rows.append(
            {
                "case": case.case,
                "dice": 2.0 * both / (a.sum() + b.sum() + 1e-8),
                "iou": both / ((a | b).sum() + 1e-8),
                "hausdorff": hausdorff(a, b),
            }
        )
    return pd.DataFrame(rows)


def hausdorff(a, b) -> float:
    """Largest distance from a pixel of one mask to the other mask, in pixels; NaN if one is empty.

    Example:
        >>> a, b = np.zeros((2, 1, 8), bool)
        >>> a[0, :6] = b[0, :2] = True
        >>> hausdorff(a, b)
        4.0
    """
    if not a.any() or not b.any():
        return float("nan")
    return float(max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max()))
