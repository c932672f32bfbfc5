"""How good a teacher's own masks are, where there are references to compare them with."""

import numpy as np
import pandas as pd

from keras_meduda.data.checks import read_reference
from keras_meduda.data.io import read_spacing
from keras_meduda.evaluation.metrics import case_metrics
from keras_meduda.teachers.targets import open_targets, target_of


def evaluate_teacher(targets, cases: pd.DataFrame, task) -> pd.DataFrame:
    """Compares a teacher's soft masks, cut at ½, with reference masks; see `km.evaluate`.

    A case in which the teacher failed counts as an empty mask.

    Args:
        targets: the table of `meduda teach`.
        cases: a case table whose rows all have masks.
        task: declares the values of the mask files; all classes together are the foreground.

    Returns:
        One row a case, as `km.evaluate` gives it, and `failed`.

    Raises:
        DataError: a missing or damaged file or case, a mask of another shape or position than its
            image, or an image that is not that which the teacher saw.
    """
    rows, table = [], open_targets(targets)
    for case in cases.itertuples():
        reference, target = read_reference(case, task) > 0, target_of(table, case)
        found = np.zeros_like(reference) if target is None else target.probability > 0.5
        rows.append(
            {
                "case": case.case,
                "domain": case.domain,
                "group": case.group,
                "class": "+".join(task.classes),
                **case_metrics(found, reference, read_spacing(case.image)),
                "prediction_empty": not found.any(),
                "reference_empty": not reference.any(),
                "failed": target is None,
            }
        )
    return pd.DataFrame(rows)
