"""What can be said of predictions without a single label: none of it is an accuracy."""

import os
from itertools import islice

import numpy as np
import pandas as pd

from keras_meduda.data.files import each
from keras_meduda.data.io import read_mask
from keras_meduda.evaluation.calibration import entropy
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.statistics import case_columns
from keras_meduda.progress import track


def label_free(runs: dict, cases: pd.DataFrame) -> pd.DataFrame:
    """Describes the predictions of one run, and what changed from the run before it.

    Args:
        runs: `{"source_only": run, "adapted": run}`, or a single run; the last is described.
        cases: whose masks are not read.

    Returns:
        One row per case and class: `case, domain, group, class, entropy` (mean over the case's
        pixels, in nats, the same for all its classes), `area_share` (of the image) and
        `prediction_empty`. With two runs also `disagreement`, 1 − Dice of their masks (0 where both
        are empty), and `area_share_<name of the first>`.
    """
    rows, images = [], list(cases["image"])
    task = list(runs.values())[-1].task
    streams = zip(*(predict_all(run, images) for run in runs.values()), strict=True)
    for row, outputs in track(
        zip(cases.itertuples(), streams, strict=True), len(cases), "predicting"
    ):
        doubt = float(entropy(outputs[-1], task.overlapping).mean())
        masks = [task.masks(p) for p in outputs]
        for i, name in enumerate(task.classes):
            after = masks[-1][..., i]
            line = {
                "case": row.case,
                "domain": row.domain,
                "group": row.group,
                "class": name,
                "entropy": doubt,
                "area_share": after.mean(),
                "prediction_empty": not after.any(),
            }
            for earlier, mask in zip(islice(runs, len(runs) - 1), masks, strict=False):
                before = mask[..., i]
                total = before.sum() + after.sum()
                line["disagreement"] = 1 - 2 * (before & after).sum() / total if total else 0.0
                line[f"area_share_{earlier}"] = before.mean()
            rows.append(line)
    return pd.DataFrame(rows)


def suspicious(
    frame: pd.DataFrame, source_shares: dict | None = None, most_entropy: float | None = None
) -> list[str]:
    """What to look at before trusting predictions that no label can score, a sentence each.

    An entropy of more than half of its maximum comes first. A class is named if its median area is
    less than half or more than twice that of the run before, if it lies outside the 5th to 95th
    percentile of the source's masks, or if it is found nowhere in more than a tenth of the cases.
    Any of it may be right: a target may differ in just that.

    Args:
        frame: as `label_free` gives it.
        source_shares: areas of the source, as `reference_shares` gives them.
        most_entropy: the largest entropy that there is, in nats a pixel. Default: not looked at.

    Example:
        >>> line = {"class": "cup", "area_share": 0.01, "prediction_empty": False}
        >>> suspicious(pd.DataFrame([{**line, "area_share_source_only": 0.04}]))
        ['cup: the median area is 0.25 times that of source only.']
    """
    found = []
    if most_entropy:
        share = frame.drop_duplicates(case_columns(frame))["entropy"].mean() / most_entropy
        if share > 0.5:
            found.append(
                f"The mean entropy is {100 * share:.0f} % of its maximum: the network is undecided "
                "nearly everywhere, as one is that has not learnt."
            )
    for name, rows in frame.groupby("class", sort=False):
        area = rows["area_share"].median()
        for column in rows.filter(regex="^area_share_"):
            before = rows[column].median()
            if before > 0 and not 0.5 <= area / before <= 2:
                run = column.removeprefix("area_share_").replace("_", " ")
                times = _short(area / before)
                found.append(f"{name}: the median area is {times} times that of {run}.")
        if source_shares:
            low, high = np.percentile(source_shares[name], [5, 95])
            if not low <= area <= high:
                found.append(
                    f"{name}: the median area is {_short(100 * area)} % of the image; nine of ten "
                    f"masks of the source have {_short(100 * low)} to {_short(100 * high)} %."
                )
        if (empty := rows["prediction_empty"].sum()) > 0.1 * len(rows):
            found.append(f"{name}: found nowhere in {empty} of {len(rows)} cases.")
    return found


def _short(number):
    """Two digits, but never as a power of ten."""
    return f"{float(f'{number:.2g}'):g}"


def reference_shares(cases: pd.DataFrame, task) -> dict[str, np.ndarray]:
    """Share of the image that each class takes in the masks of labelled cases, `{class: (cases,)}`.

    Args:
        cases: a case table whose rows all have masks.
        task: declares the values of the mask files.
    """

    def share(row):
        hot = task.one_hot(read_mask(row.mask, task.of(row)))
        return hot.mean(axis=tuple(range(hot.ndim - 1)))

    threads = min(8, os.cpu_count() or 1)  # each holds a mask of all classes
    shares = each(share, list(cases.itertuples()), "measuring areas", threads)
    shares = np.stack(shares) if task.overlapping else np.stack(shares)[:, 1:]
    return dict(zip(task.classes, shares.T, strict=True))
