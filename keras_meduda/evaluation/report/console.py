"""What a study prints at its end."""

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from keras_meduda.evaluation.report.tables import p_in_words
from keras_meduda.evaluation.statistics import case_columns


def print_comparison(comparison: dict, adapted: pd.DataFrame, unit: str) -> None:
    """One table: Dice of every run on the target's test cases, and the gap closed."""
    names = list(comparison["mean"]["dice"])
    cases = len(adapted[case_columns(adapted)].drop_duplicates())
    groups = adapted["group"].nunique()
    table = Table(
        "Dice, %",
        *(
            Column(name, justify="right")
            for name in (*(name.replace("_", " ") for name in names), "gap closed", "p")
        ),
        title=f"target test: {cases} cases of {groups} groups",
    )
    for row, result in comparison.items():
        closed, p = result["gap_closed"], result["adapted_vs_source_only"]["p_value"]
        table.add_row(
            row,
            *(f"{100 * result['dice'][name]:.1f}" for name in names),
            "–" if closed is None else f"{100 * closed:.0f} %",
            p_in_words(p),
        )
    Console().print(table)
    Console().print(
        "p: Wilcoxon signed-rank test of adapted against source only, on group means. "
        f"HD95 (MedPy's definition, {unit}), ASSD and areas per case: report and evaluation/",
        highlight=False,
    )
