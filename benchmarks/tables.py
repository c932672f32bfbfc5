"""What the benchmarks share: tidy tables that are completed row by row, and the pages of them.

A row set is all that one run gave. It is written at once, so that a command may be stopped at any
moment and goes on with what is missing.
"""

import csv
import fcntl
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from keras_meduda.data.io import replacing
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.runner import train

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs"
KEY = ("network", "source", "target", "split", "method", "seed")
VALUES = ("class", "metric", "value", "unit", "minutes", "command")


def data_root() -> Path:
    """The folder of the research data sets, `MEDUDA_DATA`."""
    if root := os.environ.get("MEDUDA_DATA"):
        return Path(root)
    sys.exit("MEDUDA_DATA is not set; expected the folder of the research data sets.")


def imagenet_mobilenetv2() -> Path:
    """ImageNet's weights of MobileNetV2, in the folder `pretrained` beside `MEDUDA_DATA`."""
    return data_root().parent / "pretrained" / "mobilenetv2_notop.weights.h5"


def main(name, row_sets, page, key=KEY):
    """Completes `NAME.csv`, all of it or the rows that the command line names, and its page.

    Args:
        name: of the benchmark.
        row_sets: pairs of a key, one text a column of `key`, and a function without arguments that
            gives a list of (class, metric, value, unit) and the minutes that they took.
        page: function that gives the lines of the page; `NAME_notes.md` follows them.
        key: names of the columns that tell row sets from each other.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--page" not in sys.argv:
        complete(name, asked(row_sets, words), f"python benchmarks/{name}.py", key)
    write_page(name, page())


def read(name, key=KEY):
    """The table of a benchmark so far; every cell as text."""
    table = HERE / f"{name}.csv"
    if not table.exists():
        return pd.DataFrame(columns=[*key, *VALUES])
    return pd.read_csv(table, dtype=str).fillna({"class": ""})  # of no class, such as a decision


def asked(row_sets, words):
    """The row sets whose keys hold every word, or one of `a,b`; a shift is `source-target`."""
    for key, make in row_sets:
        names = {*key, f"{key[1]}-{key[2]}"}
        if all(names & set(word.split(",")) for word in words):
            yield key, make


def complete(name, row_sets, command, key=KEY):
    """Makes the row sets that a table lacks, one after the other; arguments as `main` has them."""
    table = HERE / f"{name}.csv"
    for names, make in row_sets:
        if names in set(read(name, key)[list(key)].agg(tuple, axis=1)):
            continue
        print(*names, flush=True)
        values, minutes = make()
        columns = (*key, *VALUES)
        rows = [
            dict(zip(columns, (*names, *cells, f"{minutes:.1f}", command), strict=True))
            for cells in ((label, metric, f"{v:.6f}", unit) for label, metric, v, unit in values)
        ]
        with open(table.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = read(name, key)  # again: another call may have completed others meanwhile
            with replacing(table) as unfinished, open(unfinished, "w", newline="") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(there.to_dict("records") + rows)


def trained(recipe, data, method, folder, seed=0, **options):
    """One stage of a recipe, after the one from which it starts: the run, and its own minutes.

    Args:
        recipe: whose stages are the methods of a benchmark.
        data: on which cases.
        method: name of a stage.
        folder: of all runs on these cases, which share their prepared images.
        seed: of weights, order and augmentation.
        options: further ones, such as the precision.
    """
    stage, given = recipe.stages[method], recipe.given
    if stage.start not in ("fresh", *given):
        given = {stage.start: trained(recipe, data, stage.start, folder, seed, **options)[0]}
    alone = replace(recipe, stages={"trained": stage}, given=given)
    options = Options(out=folder / f"{method}-{seed}", seed=seed, **options)
    return timed(options.out, lambda: train(alone, data, options, folder / "prepared")["trained"])


def timed(folder, make):
    """What a function gives, and its minutes over all calls that it took (`folder/minutes.txt`).

    Once the folder holds a finished run, its minutes stay: then it is only read again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spent, begin = folder / "minutes.txt", time.perf_counter()
    minutes = float(spent.read_text()) if spent.exists() else 0.0
    finished = (folder / "network.keras").exists()
    try:
        result = make()
    finally:
        if not finished:
            minutes += (time.perf_counter() - begin) / 60
            spent.write_text(str(minutes))
    return result, minutes


def mean_scores(frame, distance="px"):
    """The means over cases of what `km.evaluate` gives, as `complete` wants them."""
    units = {"dice": "1", "iou": "1", "hd95": distance, "assd": distance, "vcdr_error": "1"}
    return [
        (name, metric, scores[metric].mean(), unit)
        for name, scores in frame.groupby("class", sort=False)
        for metric, unit in units.items()
        if metric in scores and scores[metric].notna().any()
    ]


def spread(values, digits=3):
    """Mean of several seeds ± half their range, as text."""
    values = np.asarray(values, float)
    text = f"{values.mean():.{digits}f}"
    half = (values.max() - values.min()) / 2
    return text if len(values) == 1 else f"{text} ± {half:.{digits}f}"


def markdown(columns, rows):
    """The lines of a Markdown table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for cells in rows:
        yield "| " + " | ".join(map(str, cells)) + " |"


def write_page(name, lines):
    """Writes `NAME.md`, and at its end what `NAME_notes.md` says of it."""
    lines, notes = list(lines), HERE / f"{name}_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / f"{name}.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
