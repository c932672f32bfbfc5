"""What the benchmarks share: tidy tables that are completed run by run, and the time of a training.

A row holds one value; a row set is all that one run gave and is written at once, so that a command
may be stopped at any moment and goes on with what is missing.
"""

import csv
import fcntl
import time

import keras
import numpy as np
import pandas as pd

from keras_meduda import training
from keras_meduda.data.io import replacing

if keras.backend.backend() == "jax":
    import jax_fit

    training.fit = jax_fit.fit  # km.fit's own loop is TensorFlow's
    BEFORE_COMMAND = "KERAS_BACKEND=jax PYTHONPATH=benchmarks/on_jax "
else:
    BEFORE_COMMAND = ""

KEY = ["network", "source", "target", "split", "method", "seed"]
COLUMNS = [*KEY, "class", "metric", "value", "unit", "minutes", "command"]


def read(table):
    """A table so far; every cell as text."""
    return pd.read_csv(table, dtype=str) if table.exists() else pd.DataFrame(columns=COLUMNS)


def asked(row_sets, words):
    """The row sets whose keys hold every word, or one of `a,b`; a shift is `source-target`."""
    for key, make in row_sets:
        names = {*key, f"{key[1]}-{key[2]}"}
        if all(names & set(word.split(",")) for word in words):
            yield key, make


def complete(table, row_sets, command):
    """Makes the row sets that a table lacks, one after the other.

    Args:
        table: path of the CSV.
        row_sets: pairs of a key, six texts as in `KEY`, and a function without arguments that gives
            a list of (class, metric, value, unit) and the minutes that they took.
        command: that makes the table.
    """
    command = BEFORE_COMMAND + command
    for key, make in row_sets:
        if key in set(read(table)[KEY].agg(tuple, axis=1)):
            continue
        print(*key, flush=True)
        values, minutes = make()
        rows = [
            dict(
                zip(
                    COLUMNS,
                    (*key, name, metric, f"{v:.6f}", unit, f"{minutes:.1f}", command),
                    strict=True,
                )
            )
            for name, metric, v, unit in values
        ]
        with open(table.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = read(table)  # again: another call may have completed others meanwhile
            with replacing(table) as unfinished, open(unfinished, "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(there.to_dict("records") + rows)


def timed(folder, train):
    """What a training gives, and its minutes over all calls that it took (`folder/minutes.txt`)."""
    folder.mkdir(parents=True, exist_ok=True)
    spent, begin = folder / "minutes.txt", time.perf_counter()
    before = float(spent.read_text()) if spent.exists() else 0.0
    try:
        result = train()
    finally:
        minutes = before + (time.perf_counter() - begin) / 60
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
