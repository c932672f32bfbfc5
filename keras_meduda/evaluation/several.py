"""What several runs say together: their mean and spread, and paired tests of one against another.

Runs of one experiment, with other seeds or on other folds, lie in one folder as `seed_N` or
`fold_N`; here that folder counts as one run, whose score of a case is the mean over them.
"""

import json
from itertools import combinations
from pathlib import Path

import pandas as pd

from keras_meduda.evaluation.report.tables import mean_over_classes
from keras_meduda.evaluation.statistics import bootstrap_ci, holm, paired_test
from keras_meduda.run.decided import FEW, GUARDED

KEYS = ["domain", "case", "class"]
METRICS = ("dice", "hd95")
BESIDE = {"source_only", "oracle", "teacher", GUARDED, FEW, "source"}  # not of the deployed network


def repeats(folder) -> dict[str, Path]:
    """The runs of other seeds or folds in a folder, by name; none where it is a run itself."""
    kinds = ("seed_*", "fold_*")
    found = {path.name: path for kind in kinds for path in Path(folder).glob(kind)}
    found = {name: path for name, path in found.items() if (path / "config.json").is_file()}
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def evaluations(folder) -> dict[str, pd.DataFrame]:
    """The tables of case metrics of a run, by their folder below `evaluation/`.

    Args:
        folder: of a run, or of one experiment with other seeds or on other folds; then each table
            has the column `run` besides.
    """
    if several := repeats(folder):
        tables = {name: evaluations(path) for name, path in several.items()}
        names = dict.fromkeys(name for of_run in tables.values() for name in of_run)
        return {
            name: pd.concat(
                [of_run[name].assign(run=run) for run, of_run in tables.items() if name in of_run],
                ignore_index=True,
            )
            for name in names
        }
    place = Path(folder) / "evaluation"
    words = dict.fromkeys(("case", "group", "domain", "class"), str)  # a case may be named NA
    return {
        file.parent.relative_to(place).as_posix(): pd.read_csv(file, converters=words)
        for file in sorted(place.rglob("cases.csv"))
    }


def unit_of(folder) -> str:
    """Unit of the distances of a run, or of the first of several: px or mm."""
    return _configs(folder)[0]["task"]["unit"]


def start_of(folder) -> str:
    """Which weights a run began with, or each of several: a name and a checksum, or `random`."""
    starts = dict.fromkeys(config.get("weights") or "random" for config in _configs(folder))
    return " or ".join(starts)


def _configs(folder):
    """What `config.json` says of a run, or of each of several."""
    paths = repeats(folder).values() or [Path(folder)]
    return [json.loads((path / "config.json").read_text(encoding="utf-8")) for path in paths]


def spread(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean and spread over runs of every evaluation, class and metric.

    Args:
        tables: as `evaluations` gives them for runs of other seeds or folds.

    Returns:
        A row for each `evaluation`, `class` and `metric`: number of `runs` and of `cases`; `mean`,
        `sd` (of n − 1), `lowest` and `highest` of the runs' means over cases; `low` and `high`, the
        95 % interval of the mean over cases, each the mean of its runs, by a bootstrap over groups;
        and a column a run. HD95 is in the unit of the task.

    Example:
        >>> frame = pd.DataFrame({"run": ["seed_0", "seed_1"], "domain": "d", "case": "a",
        ...     "group": "p", "class": "cup", "dice": [0.5, 0.7], "hd95": 1.0,
        ...     "prediction_empty": False, "reference_empty": False})
        >>> spread({"adapted": frame}).loc[0, ["mean", "sd"]].round(3).tolist()
        [0.6, 0.141]
    """
    rows = []
    for evaluation, table in tables.items():
        for label, metric, frame in _by_class_and_metric(table):
            means = frame.groupby("run", sort=False)[metric].mean()
            cases = _mean_over_runs(frame)
            low, high = bootstrap_ci(cases[metric], cases["group"])
            rows.append(
                {
                    "evaluation": evaluation, "class": label, "metric": metric,
                    "runs": len(means), "cases": len(cases), "mean": means.mean(),
                    "sd": means.std(), "lowest": means.min(), "highest": means.max(),
                    "low": low, "high": high, **means,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def chosen(folder, name: str | None = None) -> tuple[str, pd.DataFrame]:
    """The evaluation of a run that a comparison takes: the one named, or that of its network.

    Args:
        folder: of the run, or of its seeds or folds.
        name: folder below `evaluation/`. Default: that of the network that an adaptation decided
            for, else the only one that is neither of another network of the experiment, such as the
            oracle, nor on the source.

    Raises:
        ValueError: no evaluation, none of that name, or several to choose from.
    """
    tables = evaluations(folder)
    if name is None:
        own = [n for n in tables if n not in BESIDE and "_on_" not in n]
        decided = [n for n in (FEW, GUARDED) if n in tables]
        name = decided[0] if decided else own[0] if len(own) == 1 else None
    if name not in tables:
        there = ", ".join(tables) or "none: evaluate it first (meduda evaluate)"
        raise ValueError(f"{folder}: expected the name of one evaluation; there are {there}.")
    return name, tables[name]


def on_the_same_cases(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of several runs on the cases that all have, in one order; a mean over runs each.

    Args:
        tables: case metrics by run.

    Raises:
        ValueError: no case that all have, or one that is of different groups.
    """
    means = {name: _mean_over_runs(table).set_index(KEYS) for name, table in tables.items()}
    (first, one), *others = means.items()
    index = one.index
    for name, other in others:
        index = index[index.isin(other.index)]
        if not len(index):
            raise ValueError(f"{first} and {name} have no case in common; expected the same cases.")
        if (one.loc[index, "group"] != other.loc[index, "group"]).any():
            raise ValueError(f"{first} and {name} have cases of one name in different groups.")
    return {name: table.loc[index].reset_index() for name, table in means.items()}


def paired_tests(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every run against every other: difference, interval, p, and p after Holm's correction.

    Cases are paired, differences are averaged by group, and Wilcoxon's signed-rank test looks at
    the means of groups. The interval is a bootstrap over groups. Holm's correction is over the
    pairs of runs, for each class and metric by itself.

    Args:
        tables: as `on_the_same_cases` gives them.

    Returns:
        A row for each `class`, `metric` and pair: `run`, `against`, `difference` (run − against),
        its `low` and `high` (95 %), `groups`, `p`, `p_holm` and `reason` where there is no p.

    Source:
        S. Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    rows = []
    by_run = {name: _by_class_and_metric(table) for name, table in tables.items()}
    for together in zip(*by_run.values(), strict=True):
        of = {name: part for name, part in zip(by_run, together, strict=True)}
        label, metric, _ = together[0]
        pairs = []
        for against, run in combinations(of, 2):
            (*_, one), (*_, other) = of[run], of[against]
            a, b, groups = (x.to_numpy() for x in (one[metric], other[metric], one["group"]))
            test = paired_test(a, b, groups)
            means = pd.Series(a - b).groupby(groups).mean().dropna()
            low, high = bootstrap_ci(means, means.index)
            pairs.append(
                {
                    "class": label, "metric": metric, "run": run, "against": against,
                    "difference": test["difference"], "low": low, "high": high,
                    "groups": test["groups"], "p": test["p_value"],
                    "reason": test.get("reason", ""),
                }
            )  # fmt: skip
        corrected = holm([pair["p"] for pair in pairs])
        rows += [{**pair, "p_holm": p} for pair, p in zip(pairs, corrected, strict=True)]
    return pd.DataFrame(rows)


def _by_class_and_metric(table):
    """`(class, metric, rows)`, the mean over classes last where there is more than one."""
    parts = list(table.groupby("class", sort=False))
    if len(parts) > 1:
        runs = table.groupby("run", sort=False) if "run" in table else [(None, table)]
        means = [mean_over_classes(rows).assign(run=run) for run, rows in runs]
        parts.append(("mean over classes", pd.concat(means, ignore_index=True)))
    return [(label, metric, rows) for label, rows in parts for metric in METRICS]


def _mean_over_runs(table):
    """One row a case and class: its group, and means over the runs that have it."""
    how = {"group": "first", **dict.fromkeys(METRICS, "mean")}
    how |= {"prediction_empty": "any", "reference_empty": "any"}
    return table.groupby(KEYS, sort=False).agg(how).reset_index()
