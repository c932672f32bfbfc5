"""The tables that an evaluation leaves in a run folder: cases, their summary, the comparison."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.io import replacing
from keras_meduda.evaluation.calibration import reliability
from keras_meduda.evaluation.predict import evaluate
from keras_meduda.evaluation.statistics import (
    case_columns,
    gap_closed,
    paired_test,
    summarise,
)


def write_evaluation(run_dir, name: str, frame: pd.DataFrame) -> dict:
    """Writes `evaluation/<name>/cases.csv` and `summary.json`; returns the summary."""
    folder = Path(run_dir) / "evaluation" / name
    summary = summarise(frame)
    with replacing(folder / "cases.csv") as unfinished:
        frame.to_csv(unfinished, index=False, float_format="%.6g")
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=1))
    return summary


def score(run, cases: pd.DataFrame, task=None, **how) -> tuple[pd.DataFrame, np.ndarray]:
    """Case metrics as `km.evaluate` gives them, and the counts of `calibration.reliability`.

    Args:
        run: what `km.load` or `km.fit` returns.
        cases: a case table whose rows all have masks.
        task: as in `km.evaluate`.
        **how: `masks` and `medpy` of `km.evaluate`.
    """
    counts = []

    def count(probabilities, reference):
        counts.append(reliability(probabilities, reference))

    frame = evaluate(run, cases, task, observe=count, **how)
    return frame, np.sum(counts, axis=0)


def compare(run_dir, frames: dict[str, pd.DataFrame]) -> dict:
    """Compares the runs "source_only", "adapted" and, where there is one, "oracle".

    Gap closed = (adapted − source only) / (oracle − source only), of mean Dice; the test is
    Wilcoxon's signed-rank test on the means of the groups. Written as `comparison.json`.
    """
    result = {}
    for name in [*frames["adapted"]["class"].unique(), "mean"]:
        dice = {
            run: mean_over_classes(frame) if name == "mean" else frame[frame["class"] == name]
            for run, frame in frames.items()
        }
        means = {run: float(values["dice"].mean()) for run, values in dice.items()}
        test = paired_test(
            dice["adapted"]["dice"].to_numpy(),
            dice["source_only"]["dice"].to_numpy(),
            dice["adapted"]["group"].to_numpy(),
        )
        closed = None
        if "oracle" in means:
            closed = gap_closed(means["source_only"], means["adapted"], means["oracle"])
            closed = None if np.isnan(closed) else closed
        result[name] = {"dice": means, "gap_closed": closed, "adapted_vs_source_only": test}
    with replacing(Path(run_dir) / "comparison.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1))
    return result


def mean_over_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of case metrics with one row a case: Dice and HD95 averaged over its classes.

    A mask counts as empty where that of any class is.

    Example:
        >>> frame = pd.DataFrame({"case": "a", "group": "p1", "class": ["cup", "disc"],
        ...     "dice": [0.5, 1.0], "hd95": [4.0, 2.0], "prediction_empty": False,
        ...     "reference_empty": False})
        >>> mean_over_classes(frame)[["case", "class", "dice", "hd95"]].values.tolist()
        [['a', 'mean', 0.75, 3.0]]
    """
    how = {"dice": "mean", "hd95": "mean", "prediction_empty": "any", "reference_empty": "any"}
    keys = [*case_columns(frame), "group"]
    means = frame.groupby(keys, sort=False).agg(how).reset_index()
    return means.assign(**{"class": "mean"})


def p_in_words(p: float | None) -> str:
    """A p-value with two digits; below a thousandth only that it is.

    Example:
        >>> p_in_words(0.0321), p_in_words(6e-5), p_in_words(None)
        ('0.032', '< 0.001', '–')
    """
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"
