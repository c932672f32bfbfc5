"""The report of a run: one page that needs no network, no server and no other file."""

import base64
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from keras_meduda.data.io import replacing
from keras_meduda.evaluation.calibration import (
    BINS,
    expected_calibration_error,
    largest_entropy,
)
from keras_meduda.evaluation.label_free import suspicious
from keras_meduda.evaluation.report import charts, pictures
from keras_meduda.evaluation.report.facts import HD95
from keras_meduda.evaluation.report.tables import counted, main_of, mean_over_classes, p_in_words
from keras_meduda.evaluation.report.verdict import (
    alarms,
    label_free_verdict,
    verdict,
)
from keras_meduda.evaluation.report.views import gallery, view, words
from keras_meduda.evaluation.statistics import summarise

CASE = ["domain", "case"]  # as statistics.case_columns finds them in every evaluation


def write_report(
    path,
    title: str,
    parts: dict[str, dict[str, pd.DataFrame]],
    runs: dict,
    cases: pd.DataFrame,
    task,
    facts: dict[str, str],
    calibration: dict[str, np.ndarray] | None = None,
    comparison: dict | None = None,
    trainings: dict[str, Path] | None = None,
    data: list[dict] | None = None,
    notes: tuple[str, ...] = (),
    masks=None,
    first: tuple[str, ...] = (),
    decided: dict[str, str] | None = None,
    predicted: pd.DataFrame | None = None,
    tables: dict[str, str] | None = None,
    targets: Path | None = None,
) -> Path:
    """Writes the report of an evaluation on labelled cases.

    Args:
        path: of the page.
        title: of the page.
        parts: heading → method → table of case metrics as `km.evaluate` gives it, all methods on
            the same cases. The first part is what the pictures, the calibration and the comparison
            are about.
        runs: method → run, of the methods that are networks, in the order of their columns. The
            last but "oracle", if there is another, is the one whose best, median and worst case
            are shown.
        cases: the cases of the first part, with masks.
        task: declares the values of the mask files.
        facts: term → text, what was run.
        calibration: method → counts of `calibration.reliability` over the first part.
        comparison: as `compare` gives it.
        trainings: heading → run folder whose `history.csv` is drawn.
        data: rows of `{"part", "cases", "groups", "use"}`: which cases took which part.
        notes: sentences that stand beside the comparison.
        masks: function from probabilities to masks, if it was not `task.masks`.
        first: sentences that are to be read before the figures are believed.
        decided: term → text that stands beside them, such as how far an adaptation goes.
        predicted: `case, class, dice, low, high`, as `confidence.promised` gives them.
        tables: name → address of a CSV file, from the page's folder on.
        targets: the teacher's table of targets, where it is no network and has one class; its masks
            are shown as well.

    Returns:
        The path.
    """
    main = main_of(runs)
    frames = next(iter(parts.values()))
    means = mean_over_classes(frames[main])
    ranked = means.set_index(CASE)["dice"].sort_values(kind="stable")
    chosen = _unique(
        {
            "Best case": ranked.index[-1],
            "Median case": ranked.index[len(ranked) // 2],
            "Worst case": ranked.index[0],
        }
    )
    views = [
        view(f"{label}: Dice {100 * ranked[case]:.1f} %", case, runs, cases, task, masks, targets)
        for label, case in chosen.items()
    ]
    return _render(
        path,
        title=title,
        verdict=verdict(main, frames[main], comparison),
        first=[*first, *alarms(main, frames[main])],
        decided=decided or {},
        label_free=None,
        main=main,
        parts={heading: _part(frames) for heading, frames in parts.items()},
        methods=list(frames),
        unit=task.unit,
        comparison=comparison,
        notes=notes,
        views=views,
        gallery=gallery(100 * ranked, "Dice {:.1f} %", runs[main], cases, task, masks),
        ranked_by=f"ranked by Dice of {words(main)}, averaged over classes",
        tables=tables or {},
        rows=_with_predicted(_case_rows(parts), predicted, next(iter(parts))),
        predicted=predicted is not None,
        boxes=_boxes(parts, task.unit),
        reliability=_reliability(calibration, task),
        bins=BINS,
        curves=_curves(trainings),
        facts=facts | {"HD95": f"{HD95} Unit: {task.unit}."},
        data=data,
    )


def write_label_free_report(
    path,
    title: str,
    runs: dict,
    frame: pd.DataFrame,
    cases: pd.DataFrame,
    facts: dict[str, str],
    source_shares: dict[str, np.ndarray] | None = None,
    trainings: dict[str, Path] | None = None,
    data: list[dict] | None = None,
    source: dict[str, pd.DataFrame] | None = None,
    first: tuple[str, ...] = (),
    decided: dict[str, str] | None = None,
    predicted: pd.DataFrame | None = None,
    tables: dict[str, str] | None = None,
) -> Path:
    """Writes the report of a run on cases without labels: what changed, how sure, how plausible.

    Args:
        path: of the page; its table goes to `label_free.csv` beside it.
        title: of the page.
        runs: method → run; the last is described, beside the one before it if there is one.
        frame: as `label_free` gives it.
        cases: that were predicted; their masks are not read.
        facts: term → text, what was run.
        source_shares: areas to be expected, as `reference_shares` gives them.
        trainings: heading → run folder whose `history.csv` is drawn.
        data: rows of `{"part", "cases", "groups", "use"}`: which cases took which part.
        source: method → table of case metrics on the source's own test cases, by which a source
            that was not learnt is told from a target that is hard.
        first: sentences that are to be read before all others.
        decided: term → text that stands beside them, such as how far an adaptation goes.
        predicted: `case, class, dice, low, high`, as `confidence.promised` gives them.
        tables: name → address of further CSV files, from the page's folder on.

    Returns:
        The path.
    """
    with replacing(Path(path).with_name("label_free.csv")) as unfinished:
        frame.to_csv(unfinished, index=False, float_format="%.6g")
    main, task = main_of(runs), runs[main_of(runs)].task
    what = "disagreement" if "disagreement" in frame else "entropy"
    ranked = frame.groupby(CASE, sort=False)[what].mean().sort_values(kind="stable")
    chosen = _unique(
        {
            f"Most {what}": ranked.index[-1],
            f"Median {what}": ranked.index[len(ranked) // 2],
            f"Least {what}": ranked.index[0],
        }
    )
    views = [
        view(f"{label}: {ranked[case]:.3f}", case, runs, cases, task)
        for label, case in chosen.items()
    ]
    shares = {}
    for name, rows in frame.groupby("class", sort=False):
        shares[name] = {"masks of the source": source_shares[name]} if source_shares else {}
        for method in runs:
            column = "area_share" if method == main else f"area_share_{method}"
            shares[name][f"{words(method)}, target"] = rows[column].to_numpy()
    described = frame.rename(columns={"domain": "part"}).to_dict("records")
    most = largest_entropy(task.channels, task.overlapping)
    first = [*first, *suspicious(frame, source_shares, most)]
    return _render(
        path,
        title=title,
        verdict=label_free_verdict(first, main, source),
        first=first,
        decided=decided or {},
        parts={"Test cases of the source": _part(source)} if source else {},
        unit=task.unit,
        comparison=None,
        label_free=[
            {
                "name": name,
                "disagreement": rows["disagreement"].mean() if "disagreement" in rows else None,
                "shares": {k: np.percentile(v, [5, 50, 95]) for k, v in shares[name].items()},
                "empty": int(rows["prediction_empty"].sum()),
            }
            for name, rows in frame.groupby("class", sort=False)
        ],
        main=main,
        n=len(frame[CASE].drop_duplicates()),
        groups=frame["group"].nunique(),
        entropy=frame.drop_duplicates(CASE)["entropy"].mean(),
        most_entropy=most,
        views=views,
        gallery=gallery(ranked[::-1], f"{what} {{:.3f}}", runs[main], cases, task),
        ranked_by=f"ranked by {what}, averaged over classes",
        tables={"cases and classes": "label_free.csv", **(tables or {})},
        rows=_with_predicted(described, predicted),
        predicted=predicted is not None,
        disagreement="disagreement" in frame,
        boxes={"areas": charts.areas(shares)},
        reliability=None,
        curves=_curves(trainings),
        facts=facts,
        data=data,
    )


def _unique(chosen):
    """Headings of the same case become one: with two cases the median is the best."""
    merged = {}
    for label, case in chosen.items():
        merged.setdefault(case, []).append(label)
    return {
        " and ".join([labels[0], *(label.lower() for label in labels[1:])]): case
        for case, labels in merged.items()
    }


def _part(frames):
    """What the table of a part shows: its classes, and how many cases and groups it has."""
    frame = list(frames.values())[-1]
    counts = {"n": len(frame[CASE].drop_duplicates()), "groups": frame["group"].nunique()}
    return {"classes": _by_class(frames), **counts}


def _by_class(frames):
    """Class → method → summary; the mean over classes besides, where there is more than one."""
    shown = [*CASE, "group", "class", "dice", "hd95", "prediction_empty", "reference_empty"]
    summaries = {name: summarise(frame[shown])["classes"] for name, frame in frames.items()}
    classes = {
        name: {method: summary[name] for method, summary in summaries.items()}
        for name in next(iter(summaries.values()))
    }
    if len(classes) > 1:
        means = {m: summarise(mean_over_classes(frame)) for m, frame in frames.items()}
        classes["mean over classes"] = {m: s["classes"]["mean"] for m, s in means.items()}
    return classes


def _case_rows(parts):
    """One row per part, case and class: who it is, and Dice and HD95 of every method."""
    rows, methods = [], list(next(iter(parts.values())))
    for heading, frames in parts.items():
        scores = {
            method: dict(
                zip(
                    zip(frame["domain"], frame["case"], frame["class"], strict=True),
                    zip(frame["dice"], frame["hd95"], strict=True),
                    strict=True,
                )
            )
            for method, frame in frames.items()
        }
        keys = next(iter(frames.values()))[["case", "group", "domain", "class"]]
        for row in keys.to_dict("records"):
            key = row["domain"], row["case"], row["class"]
            values = {method: scores.get(method, {}).get(key) for method in methods}
            part = heading if len(parts) > 1 else row["domain"]
            rows.append({**row, "part": part, "scores": values})
    return rows


def _with_predicted(rows, predicted, heading=None):
    """Rows of cases and classes with their predicted Dice; of several parts, those of the first."""
    if predicted is None:
        return rows
    keys = zip(predicted["case"], predicted["class"], strict=True)
    known = dict(zip(keys, predicted.to_dict("records"), strict=True))
    several = heading in {row["part"] for row in rows}
    return [
        {
            **row,
            "predicted": known.get((str(row["case"]), row["class"]))
            if row["part"] == heading or not several
            else None,
        }
        for row in rows
    ]


def _boxes(parts, unit):
    """Heading → chart; a part of several domains has one for each."""
    drawn = {}
    for heading, frames in parts.items():
        domains = next(iter(frames.values()))["domain"].unique()
        for domain in domains:
            name = heading if len(domains) == 1 else f"{heading}: {domain}"
            of = {method: frame[frame["domain"] == domain] for method, frame in frames.items()}
            drawn[name] = charts.boxes(of, unit, name)
    return drawn


def _reliability(calibration, task):
    if not calibration:
        return None
    rows = calibration_errors(calibration, task)
    return {"chart": charts.reliability_diagram(calibration, task.classes), "rows": rows}


def calibration_errors(calibration: dict, task) -> list[dict]:
    """Expected calibration error of each class and method, of all and of likely pixels.

    Args:
        calibration: method → counts of `calibration.reliability`.
        task: whose classes they are.
    """
    return [
        {
            "class": name,
            "method": method,
            "all": expected_calibration_error(counts[c]),
            "likely": expected_calibration_error(counts[c][1:]),
        }
        for c, name in enumerate(task.classes)
        for method, counts in calibration.items()
    ]


def _curves(trainings):
    drawn = []
    for heading, folder in (trainings or {}).items():
        file = Path(folder) / "history.csv"
        if file.exists():
            drawn.append(charts.curves(pd.read_csv(file), heading))
    return drawn


def _number(value, digits=1, scale=1.0):
    """A number with a fixed count of digits; a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{scale * value:.{digits}f}"


def _interval(limits, digits=1, scale=1.0):
    """Two limits; a dash where one group alone gives none."""
    return "–" if None in limits else " to ".join(_number(v, digits, scale) for v in limits)


def _render(path, **context):
    """The page of one evaluation, whose table sorts by a script of its own."""
    table_code = (files("itables") / "html" / "dt_bundle.js").read_bytes()
    return render(
        path,
        "report.html",
        doubt_scale=pictures.doubt_scale(),
        table_code=base64.b64encode(table_code).decode(),
        **context,
    )


def render(path, template: str, **context) -> Path:
    """Fills a template of this package and writes it, whole or not at all; returns the path."""
    environment = Environment(
        loader=PackageLoader("keras_meduda.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "words": words,
        "number": _number,
        "interval": _interval,
        "counted": counted,
        "p_value": p_in_words,
    }
    page = environment.get_template(template).render(**context)
    with replacing(path) as unfinished:
        unfinished.write_text(page, "utf-8")
    return Path(path)
