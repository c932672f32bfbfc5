"""What a table of case metrics says: means with intervals, a paired test, the gap closed.

Images of one patient resemble each other, so patients (groups), not images, are what is resampled
and compared throughout.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy  # whose modules load when they are used
from numpy.typing import ArrayLike

_KEYS = ["case", "group", "class"]
_EMPTY = ["prediction_empty", "reference_empty"]
# With five pairs the smallest two-sided p-value of the signed-rank test is 2/2⁵ = 0.0625.
_FEWEST_GROUPS = 6


def case_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that tell cases apart: a name is unique within its domain only.

    Args:
        frame: A table of case metrics, with or without the column `domain`.

    Example:
        >>> case_columns(pd.DataFrame({"case": ["a", "a"], "domain": ["t1", "t2"]}))
        ['domain', 'case']
    """
    return [name for name in ("domain", "case") if name in frame]


def bootstrap_ci(
    values: ArrayLike,
    groups: Sequence,
    statistic: Callable[[np.ndarray], float] = np.mean,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval that resamples groups with replacement.

    A drawn group brings all its values. With a single group the interval has no width: one
    patient says nothing about others.

    Args:
        values: Numbers, `(cases,)`; NaN (a metric without a value) is dropped first.
        groups: Patient of each value, `(cases,)`.
        statistic: Function of an array of values that does not depend on their order.
        n: Resamples.
        seed: Seed of the resampling; equal seeds give equal intervals.
        level: Coverage, between 0 and 1.

    Returns:
        `(low, high)`, both NaN where no value is left.

    Raises:
        ValueError: For lengths that differ or a level outside of 0 to 1.

    Source:
        Cluster bootstrap: Davison & Hinkley, Bootstrap Methods and their Application, 1997, §3.8.

    Example:
        >>> bootstrap_ci([0.5, 0.5, 1.0], ["p1", "p1", "p2"])
        (0.5, 1.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"Received level {level}, expected a number between 0 and 1.")
    values = np.asarray(values, dtype=np.float64)
    _check_lengths(values=values, groups=groups)
    present = ~np.isnan(values)
    values = values[present]
    if not values.size:
        return math.nan, math.nan
    codes, names = pd.factorize(np.asarray(groups)[present])
    if statistic is np.mean:
        return tuple(_ci_of_means(values[:, None], codes, n, seed, level)[0].tolist())
    resampled = [
        statistic(np.repeat(values, draw[codes]))
        for draws in _draws(len(names), n, seed)
        for draw in draws
    ]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _draws(groups, n, seed):
    """How often each group is drawn, a row a resample, a few rows at a time."""
    rng, shares = np.random.default_rng(seed), np.full(groups, 1 / groups)
    rows = max(1, 2**20 // groups)
    for first in range(0, n, rows):
        yield rng.multinomial(groups, shares, size=min(rows, n - first))


def _ci_of_means(columns, codes, n=2000, seed=0, level=0.95):
    """`bootstrap_ci` of the means of `columns`, `(cases, metrics)` without NaN: `(metrics, 2)`."""
    sums = np.stack([np.bincount(codes, weights=values) for values in columns.T], axis=1)
    sizes = np.bincount(codes)[:, None]
    resampled = [(draws @ sums) / (draws @ sizes) for draws in _draws(len(sums), n, seed)]
    limits = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(np.concatenate(resampled), limits, axis=0).T


def summarise(frame: pd.DataFrame) -> dict:
    """Summarise a table of case metrics, one row per case and class, as JSON-able numbers.

    Args:
        frame: Columns `case`, `group`, `class`, and `domain` where domains may share names of
            cases; boolean `prediction_empty`, `reference_empty`; every other numeric column is a
            metric, NaN where a case has no value.

    Returns:
        `{"n": cases, "groups": groups, "classes": {name: {metric: {"mean", "median", "ci95":
        [low, high], "n"}, "empty": {"both", "prediction_only", "reference_only"}}}}`. `"empty"`
        counts the cases in which both masks, or only that one, have no foreground. A metric with
        missing values has their number under `"nan"` besides; its other entries leave them out.
        No entry is ever NaN: a metric without any value has None, and so has the interval of a
        single group, which says nothing about others.

    Raises:
        ValueError: For a column that is missing, or a case listed twice for one class in a domain.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"case": ["a", "b"], "group": ["p1", "p2"], "class": "cup",
        ...     "prediction_empty": False, "reference_empty": False, "dice": [0.5, 1.0]})
        >>> summarise(frame)["classes"]["cup"]["dice"]["mean"]
        0.75
    """
    missing = [name for name in _KEYS + _EMPTY if name not in frame]
    if missing:
        raise ValueError(f"Received columns {list(frame)}, expected {missing} among them.")
    columns = case_columns(frame)
    twice = frame[frame.duplicated([*columns, "class"])]
    if len(twice):
        where = f" of domain {twice['domain'].iloc[0]!r}" if "domain" in frame else ""
        raise ValueError(
            f"Received case {twice['case'].iloc[0]!r}{where} more than once for class "
            f"{twice['class'].iloc[0]!r}, expected one row per case and class."
        )
    numeric = frame.drop(columns={*_KEYS, *_EMPTY, *columns}).select_dtypes("number")
    return {
        "n": len(frame[columns].drop_duplicates()),
        "groups": int(frame["group"].nunique()),
        "classes": {
            str(name): {
                **_describe(rows[list(numeric)], rows["group"]),
                "empty": _count_empty(rows),
            }
            for name, rows in frame.groupby("class", sort=False)
        },
    }


def paired_test(a: ArrayLike, b: ArrayLike, groups: Sequence) -> dict:
    """Test whether two runs differ on the same cases: Wilcoxon signed-rank over group means.

    `d_g = mean over the cases of group g of (a − b)`; the hypothesis is that `d` is symmetric
    about 0, the test is two-sided.

    Args:
        a: Metric of one run, `(cases,)`; a case that is NaN in either run is dropped.
        b: Metric of the other run on the same cases in the same order, `(cases,)`.
        groups: Patient of each case, `(cases,)`.

    Returns:
        `{"difference": mean of d, "p_value": …, "groups": number of groups}`. Without a test a
        `"reason"` is added: `p_value` is 1.0 where every difference is zero, None with fewer
        than six groups, where no p-value below 0.05 exists. `difference` is None without a case.

    Raises:
        ValueError: For lengths that differ.

    Source:
        Wilcoxon, Biometrics Bulletin 1(6), 1945; `scipy.stats.wilcoxon`.

    Example:
        >>> paired_test([0.9, 0.8], [0.9, 0.8], ["p1", "p2"])["p_value"]
        1.0
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    _check_lengths(a=a, b=b, groups=groups)
    # NaN cases drop out of the group means; a group with nothing else goes with them.
    means = pd.Series(a - b).groupby(np.asarray(groups)).mean().dropna().to_numpy()
    result = {
        "difference": float(means.mean()) if means.size else None,
        "p_value": None,
        "groups": len(means),
    }
    if means.size and not means.any():
        return result | {"p_value": 1.0, "reason": "every difference is zero"}
    if means.size < _FEWEST_GROUPS:
        return result | {"reason": f"{len(means)} groups, at least {_FEWEST_GROUPS} are needed"}
    return result | {"p_value": float(scipy.stats.wilcoxon(means).pvalue)}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values so that the level is the chance of any false finding among the tests.

    Sorted upwards, `p'_i = max over j ≤ i of min(1, (m − j + 1) p_j)`.

    Args:
        p_values: One a test; None where there was no test, which does not count.

    Returns:
        The corrected values in the same order, None where there was none.

    Source:
        S. Holm, Scandinavian Journal of Statistics 6(2), 1979.

    Example:
        >>> holm([0.04, 0.01, None, 0.03])
        [0.06, 0.03, None, 0.06]
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected, largest = [None] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = largest
    return corrected


def gap_closed(source_only: float, adapted: float, oracle: float) -> float:
    """Return how much of the way from source only to oracle an adapted network has come.

    `(adapted − source_only) / (oracle − source_only)`: 0 is no gain, 1 is as good as training on
    target labels, below 0 adaptation did harm.

    Args:
        source_only: Score of the network trained on the source alone, higher is better.
        adapted: Score of the adapted network.
        oracle: Score of the network trained with target labels.

    Returns:
        The fraction, or NaN where the oracle is not above source only: then there was no gap to
        close, and the quotient would turn a loss into a gain. For a metric where lower is better
        (hd95, assd) pass the negated scores, or every gap would look like none.

    Example:
        >>> gap_closed(source_only=0.5, adapted=0.625, oracle=0.75)
        0.5
    """
    gap = oracle - source_only
    return float((adapted - source_only) / gap) if gap > 0 else math.nan


def _describe(metrics, groups):
    """Mean, median and interval of each column; those without a gap are resampled together."""
    whole = metrics.columns[metrics.notna().all()]
    intervals = {}
    if len(whole) and len(metrics):
        values = metrics[whole].to_numpy("float64")
        limits = _ci_of_means(values, pd.factorize(groups)[0])
        intervals = dict(zip(whole, limits.tolist(), strict=True))
    described = {}
    for name, values in metrics.items():
        present = values.dropna()
        interval = intervals.get(name) or bootstrap_ci(values, groups)
        if groups[values.notna()].nunique() < 2:
            interval = (math.nan, math.nan)
        described[name] = {
            "mean": _or_none(present.mean()),
            "median": _or_none(present.median()),
            "ci95": [_or_none(limit) for limit in interval],
            "n": len(present),
        }
        if missing := len(values) - len(present):
            described[name]["nan"] = missing
    return described


def _count_empty(rows):
    prediction, reference = (rows[name].astype(bool) for name in _EMPTY)
    return {
        "both": int((prediction & reference).sum()),
        "prediction_only": int((prediction & ~reference).sum()),
        "reference_only": int((~prediction & reference).sum()),
    }


def _or_none(number):
    return float(number) if math.isfinite(number) else None


def _check_lengths(**arrays):
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Received lengths {lengths}, expected one value and group per case.")
