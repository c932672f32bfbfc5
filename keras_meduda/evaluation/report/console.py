"""What an evaluation prints at its end."""

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from keras_meduda.evaluation.report.tables import counted, p_in_words
from keras_meduda.evaluation.statistics import case_columns, summarise


def print_scores(heading: str, frames: dict[str, pd.DataFrame], unit: str) -> None:
    """One table: Dice and HD95 of every run and class on the tested cases, with 95 % intervals."""
    summaries = {name: summarise(frame) for name, frame in frames.items()}
    first = next(iter(summaries.values()))
    names = ("Dice", "95 % interval", f"HD95, {unit}", "95 % interval")
    table = Table(
        "class", "run", *(Column(name, justify="right") for name in names),
        title=f"{heading}: {counted(first['n'], 'case')} of {counted(first['groups'], 'group')}",
    )  # fmt: skip
    for label in first["classes"]:
        for name, summary in summaries.items():
            dice, hd95 = (summary["classes"][label][metric] for metric in ("dice", "hd95"))
            table.add_row(
                label,
                name.replace("_", " "),
                f"{dice['mean']:.4f}",
                _interval(dice["ci95"], 4),
                f"{hd95['mean']:.2f}",
                _interval(hd95["ci95"], 2),
            )
    Console().print(table)
    print(
        "HD95: 95th percentile of the pooled surface distances (MedPy's definition). Intervals: "
        "bootstrap over groups."
    )


def print_comparison(heading: str, comparison: dict, adapted: pd.DataFrame, unit: str) -> None:
    """One table: Dice of every run on the target's test cases, and the gap closed."""
    names = list(comparison["mean"]["dice"])
    decided = comparison["mean"]["decided"]["run"].replace("_", " ")
    cases = len(adapted[case_columns(adapted)].drop_duplicates())
    groups = adapted["group"].nunique()
    table = Table(
        "Dice, %",
        *(
            Column(name, justify="right")
            for name in (*(name.replace("_", " ") for name in names), "gap closed", "p")
        ),
        title=f"{heading}: {counted(cases, 'case')} of {counted(groups, 'group')}",
    )
    for row, result in comparison.items():
        closed, p = (result["decided"][key] for key in ("gap_closed", "vs_source_only"))
        table.add_row(
            row,
            *(f"{100 * result['dice'][name]:.1f}" for name in names),
            "–" if closed is None else f"{100 * closed:.0f} %",
            p_in_words(p["p_value"]),
        )
    Console().print(table)
    Console().print(
        f"p: Wilcoxon signed-rank test of {decided} against source only, on group means. "
        f"HD95 (MedPy's definition, {unit}), ASSD and areas per case: report and evaluation/",
        highlight=False,
    )


def _interval(limits, digits):
    """Two limits; a dash where one group alone gives none."""
    return "–" if None in limits else " to ".join(f"{limit:.{digits}f}" for limit in limits)
