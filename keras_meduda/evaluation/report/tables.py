"""The tables that an evaluation leaves in a run folder: cases, their summary, the comparison."""

import itertools
import json
import re
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


def write_evaluation(run_dir, name: str, frame: pd.DataFrame, of: str = "") -> dict:
    """Writes `evaluation/<name>/cases.csv` and `summary.json`; returns the summary.

    Args:
        run_dir: the run folder.
        name: of the evaluation.
        frame: as `km.evaluate` gives it.
        of: a digest of what was evaluated and how, by which `free_name` tells evaluations apart.
            Default: none.
    """
    folder = Path(run_dir) / "evaluation" / name
    summary = summarise(frame) | ({"of": of} if of else {})
    with replacing(folder / "cases.csv") as unfinished:
        frame.to_csv(unfinished, index=False, float_format="%.6g")
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=1))
    return summary


def free_name(run_dir, *parts: str, of: str) -> str:
    """A name for an evaluation that is there under no other; the same one gets its own again.

    Args:
        run_dir: the run folder.
        *parts: of the name, such as table, domain and split.
        of: a digest of what is evaluated and how.

    Example:
        >>> free_name(getfixture("tmp_path"), "cases", "zeiss & canon", "test", of="1a2b")
        'cases_zeiss_canon_test'
    """
    plain = "_".join(re.sub(r"[^\w-]+", "_", part).strip("_") for part in parts if part)
    plain = plain[:60] or "evaluation"
    for number in itertools.count(1):
        name = plain if number == 1 else f"{plain}_{number}"
        folder = Path(run_dir) / "evaluation" / name
        if not folder.exists():
            return name
        file = folder / "summary.json"
        if file.is_file() and json.loads(file.read_text()).get("of") == of:
            return name


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
    Wilcoxon's signed-rank test on the means of the groups. Written as `comparison.json`, with
    `decided`: the same of the network that the adaptation decided for, or of the adapted one.
    """
    result, main = {}, main_of(frames)
    for name in [*frames["adapted"]["class"].unique(), "mean"]:
        dice = {
            run: mean_over_classes(frame) if name == "mean" else frame[frame["class"] == name]
            for run, frame in frames.items()
        }
        means = {run: float(values["dice"].mean()) for run, values in dice.items()}
        of = {}
        for run in dict.fromkeys(("adapted", main)):
            test = paired_test(
                dice[run]["dice"].to_numpy(),
                dice["source_only"]["dice"].to_numpy(),
                dice[run]["group"].to_numpy(),
            )
            closed = None
            if "oracle" in means:
                closed = gap_closed(means["source_only"], means[run], means["oracle"])
                closed = None if np.isnan(closed) else closed
            of[run] = {"run": run, "gap_closed": closed, "vs_source_only": test}
        result[name] = {
            "dice": means,
            "gap_closed": of["adapted"]["gap_closed"],
            "adapted_vs_source_only": of["adapted"]["vs_source_only"],
            "decided": of[main],
        }
    with replacing(Path(run_dir) / "comparison.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1))
    return result


def main_of(runs) -> str:
    """The method that a page is about: the last but the oracle."""
    names = [name for name in runs if name != "oracle"] or list(runs)
    return names[-1]


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


def counted(n: int, noun: str) -> str:
    """A count of things.

    Example:
        >>> counted(1, "case"), counted(2, "group")
        ('1 case', '2 groups')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
