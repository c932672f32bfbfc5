"""The page of several runs: their mean and spread, or their paired comparison."""

import os
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from keras_meduda.data.io import replacing
from keras_meduda.evaluation import several
from keras_meduda.evaluation.report import charts
from keras_meduda.evaluation.report.page import render
from keras_meduda.evaluation.report.tables import mean_over_classes, p_in_words
from keras_meduda.evaluation.statistics import bootstrap_ci

PAIRING = (
    "Cases are paired and differences averaged by group. p: Wilcoxon's signed-rank test of the "
    "means of groups, two-sided; p, Holm: corrected for the pairs of runs, each class and metric "
    "by itself. Intervals: bootstrap over groups, 95 %. Runs of a single seed differ by chance as "
    "well: give folders of --seeds."
)


def write_spread(folder, runs: dict[str, Path]) -> pd.DataFrame:
    """Writes `spread.csv` and `spread.html` of the runs of an experiment; returns the table.

    Args:
        folder: that holds the runs.
        runs: by name, as `several.repeats` gives them.
    """
    folder, tables = Path(folder), several.evaluations(folder)
    table, unit = several.spread(tables), several.unit_of(folder)
    with replacing(folder / "spread.csv") as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.6g")
    links = {}
    for name, path in runs.items():
        if (path / "report.html").is_file():
            links[name] = f"{path.name}/report.html"
    lead = f"{len(runs)} runs: {', '.join(runs)}."
    if table.empty:
        lead += " None has labelled test cases, so there are no scores."
    columns = (
        "mean", "sd", "lowest to highest", "95 % interval of cases", *(runs if len(table) else ())
    )  # fmt: skip
    shown = []
    for evaluation, of in table.groupby("evaluation", sort=False) if len(table) else ():
        rows = []
        for row in of.to_dict("records"):
            cell = _cell(row["metric"])
            rows.append(
                [row["class"], _metric(row["metric"], unit), str(row["runs"]), cell(row["mean"]),
                 cell(row["sd"]), f"{cell(row['lowest'])} to {cell(row['highest'])}",
                 f"{cell(row['low'])} to {cell(row['high'])}",
                 *(cell(row.get(run)) for run in runs)]
            )  # fmt: skip
        shown.append(
            {
                "heading": evaluation.replace("_", " "),
                "caption": f"{of['cases'].iloc[0]} cases. sd and range are over runs, the interval "
                "is over groups: a bootstrap of the mean over cases.",
                "words": ("class", "metric"),
                "numbers": ("runs", *columns),
                "rows": rows,
            }
        )
    render(
        folder / "spread.html", "runs.html", title=f"Mean and spread: {folder.resolve().name}",
        lead=lead, tables=shown, charts={}, links=links,
    )  # fmt: skip
    return table


def print_spread(table: pd.DataFrame, count: int) -> None:
    """One table: mean Dice and its standard deviation over the runs, by evaluation and class."""
    if table.empty:
        print("No run has labelled test cases, so there is no table of scores.")
        return
    numbers = (Column(name, justify="right") for name in ("mean", "sd", "lowest", "highest"))
    shown = Table("evaluation", "class", *numbers, title=f"Dice, %, over {count} runs")
    for row in table[table["metric"] == "dice"].to_dict("records"):
        cells = (_cell("dice")(row[name]) for name in ("mean", "sd", "lowest", "highest"))
        shown.add_row(row["evaluation"].replace("_", " "), row["class"], *cells)
    Console().print(shown)


def write_comparison(folder, tables: dict[str, pd.DataFrame], unit: str, said: dict, links: dict):
    """Writes `compare.csv` and `compare.html` of several runs on the same cases.

    Args:
        folder: for both.
        tables: case metrics by run.
        unit: of the distances.
        said: what a run is, by run, for the page.
        links: its folder, by run.

    Returns:
        The table of paired tests.
    """
    folder, given = Path(folder), {name: _count(table) for name, table in tables.items()}
    tables = several.on_the_same_cases(tables)
    tests = several.paired_tests(tables)
    with replacing(folder / "compare.csv") as unfinished:
        tests.to_csv(unfinished, index=False, float_format="%.6g")
    first = next(iter(tables.values()))
    cases, groups = _count(first), first["group"].nunique()
    lead = f"{len(tables)} runs on {cases} cases of {groups} groups that all of them have."
    for name, count in given.items():
        if count > cases:
            lead += f" {count - cases} other cases of {name} are left out."
    pages = {name: Path(path) / "report.html" for name, path in links.items()}
    render(
        folder / "compare.html",
        "runs.html",
        title=" against ".join(tables) if len(tables) == 2 else f"{len(tables)} runs compared",
        lead=lead,
        tables=[
            _scores(tables, unit, said),
            {
                "heading": "Paired tests",
                "caption": PAIRING,
                "words": ("class", "metric", "run", "against"),
                "numbers": ("difference", "95 % interval", "groups", "p", "p, Holm"),
                "rows": [_test(row, unit) for row in tests.to_dict("records")],
            },
        ],
        charts={"Every case": charts.boxes(tables, unit, "Dice and HD95 of every run")},
        links={n: os.path.relpath(p, folder) for n, p in pages.items() if p.is_file()},
    )
    return tests


def print_tests(tests: pd.DataFrame) -> None:
    """One table: differences in Dice with interval and p."""
    columns = ("difference", "95 % interval", "groups", "p", "p, Holm")
    shown = Table(
        "class", "run", "against", *(Column(name, justify="right") for name in columns),
        title="Dice, %",
    )  # fmt: skip
    for row in tests[tests["metric"] == "dice"].to_dict("records"):
        label, _, *cells = _test(row, "")
        shown.add_row(label, *cells)
    Console().print(shown)


def _count(table):
    return len(table[several.KEYS[:2]].drop_duplicates())


def _scores(tables, unit, said):
    rows = []
    for name, table in tables.items():
        parts = {label: part for label, part in table.groupby("class", sort=False)}
        if len(parts) > 1:
            parts["mean over classes"] = mean_over_classes(table)
        for label, part in parts.items():
            cells = []
            for metric in several.METRICS:
                cell, (low, high) = _cell(metric), bootstrap_ci(part[metric], part["group"])
                cells += [cell(part[metric].mean()), f"{cell(low)} to {cell(high)}"]
            rows.append([name, said[name], label, *cells])
    return {
        "heading": "Scores",
        "caption": "Means over cases. Intervals hold 95 % of the means of groups drawn anew "
        "(bootstrap).",
        "words": ("run", "evaluation", "class"),
        "numbers": ("Dice, %", "95 % interval", f"HD95, {unit}", "95 % interval"),
        "rows": rows,
    }


def _test(row, unit):
    cell = _cell(row["metric"])
    p = f"no test: {row['reason']}" if row["p"] is None or row["p"] != row["p"] else None
    return [
        row["class"], _metric(row["metric"], unit), row["run"], row["against"],
        f"{'+' if (row['difference'] or 0) > 0 else ''}{cell(row['difference'])}",
        f"{cell(row['low'])} to {cell(row['high'])}", str(row["groups"]),
        p or p_in_words(row["p"]), "–" if p else p_in_words(row["p_holm"]),
    ]  # fmt: skip


def _metric(name, unit):
    return {"dice": "Dice, %", "hd95": f"HD95, {unit}"}[name]


def _cell(metric):
    """Function from a number to its text; a dash where there is none."""
    digits, scale = {"dice": (1, 100), "hd95": (2, 1)}[metric]
    return lambda x: "–" if x is None or x != x else f"{scale * x:.{digits}f}"
