"""What a run leaves for people: tables, comparison, overlay pictures, a label-free page."""

import base64
import html
import json
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.io import read_image, read_mask, replacing, write_picture
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.statistics import gap_closed, paired_test, summarise

COLOURS = ((255, 214, 0), (0, 200, 255), (255, 80, 160), (120, 255, 90))  # one a class, RGB


def write_evaluation(run_dir, name: str, frame: pd.DataFrame) -> dict:
    """Writes `evaluation/<name>/cases.csv` and `summary.json`; returns the summary."""
    folder = Path(run_dir) / "evaluation" / name
    summary = summarise(frame)
    with replacing(folder / "cases.csv") as unfinished:
        frame.to_csv(unfinished, index=False, float_format="%.6g")
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=1))
    return summary


def compare(run_dir, frames: dict[str, pd.DataFrame]) -> dict:
    """Compares the runs "source_only", "adapted" and, where there is one, "oracle".

    Gap closed = (adapted − source only) / (oracle − source only), of mean Dice; the test is
    Wilcoxon's signed-rank test on the means of the groups. Written as `comparison.json`.
    """
    result = {}
    for name in [*frames["adapted"]["class"].unique(), "mean"]:
        dice = {run: _dice(frame, name) for run, frame in frames.items()}
        means = {run: float(values["dice"].mean()) for run, values in dice.items()}
        test = paired_test(
            dice["adapted"]["dice"].to_numpy(),
            dice["source_only"]["dice"].to_numpy(),
            dice["adapted"]["group"].to_numpy(),
        )
        closed = None
        if "oracle" in means:
            closed = gap_closed(means["source_only"], means["adapted"], means["oracle"])
            closed = None if np.isnan(closed) else closed
        result[name] = {"dice": means, "gap_closed": closed, "adapted_vs_source_only": test}
    with replacing(Path(run_dir) / "comparison.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1))
    return result


def _dice(frame, name):
    """Dice per case of one class, or of the mean over classes, in the order of the cases."""
    if name != "mean":
        return frame[frame["class"] == name].reset_index(drop=True)
    return frame.groupby(["case", "group"], sort=False)["dice"].mean().reset_index()


def outline(image, masks, thickness: int = 2) -> np.ndarray:
    """An RGB picture with the outline of each class drawn on it.

    Args:
        image: `(H, W, C)`, 8-bit or any range.
        masks: boolean `(H, W, classes)`.
        thickness: of the line, in pixels.
    """
    picture = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    if picture.dtype != np.uint8:
        low, high = picture.min(), picture.max()
        picture = ((picture - low) * (255.0 / max(high - low, 1e-9))).astype("uint8")
    picture = np.array(picture, order="C")
    for i in range(masks.shape[-1]):
        found = np.ascontiguousarray(masks[..., i], "uint8")
        lines, _ = cv2.findContours(found, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, COLOURS[i % len(COLOURS)], thickness)
    return picture


def panel(pictures: dict[str, np.ndarray], height: int = 320) -> np.ndarray:
    """Pictures side by side under their names, RGB."""
    columns = []
    for name, picture in pictures.items():
        width = round(picture.shape[1] * height / picture.shape[0])
        column = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        title = np.full((28, width, 3), 255, "uint8")
        cv2.putText(title, name, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns += [np.concatenate([title, column]), np.full((height + 28, 6, 3), 255, "uint8")]
    return np.concatenate(columns[:-1], axis=1)


def write_overlays(
    run_dir, runs: dict, cases: pd.DataFrame, task, frame: pd.DataFrame
) -> list[Path]:
    """Pictures of the best, the median and the worst case: image, reference and every run.

    Args:
        run_dir: the run folder; pictures go to `overlays/`.
        runs: name → run, in the order of the columns.
        cases: the evaluated cases, with masks.
        task: declares the values of the mask files.
        frame: the evaluation that ranks the cases, by Dice averaged over classes.
    """
    ranked = frame.groupby("case")["dice"].mean().sort_values()
    chosen = {
        "worst": ranked.index[0],
        "median": ranked.index[len(ranked) // 2],
        "best": ranked.index[-1],
    }
    files = []
    for label, case in chosen.items():
        row = cases[cases["case"] == case].iloc[0]
        image = read_image(row["image"]).array
        pictures = {"image": outline(image, np.zeros((*image.shape[:2], 0), bool))}
        for name, run in runs.items():
            masks = task.masks(next(predict_all(run, [image])))
            pictures[name.replace("_", " ")] = outline(image, masks)
        hot = task.one_hot(read_mask(row["mask"], task)).astype(bool)
        pictures["reference"] = outline(image, hot if task.overlapping else hot[..., 1:])
        files.append(write_picture(Path(run_dir) / "overlays" / f"{label}.png", panel(pictures)))
    return files


def write_label_free_page(
    run_dir, source_only, adapted, cases: pd.DataFrame, source_labels: list[np.ndarray]
) -> Path:
    """A page for a target without labels: what changed, how sure, and how plausible it looks.

    Per case and class the disagreement 1 − Dice(source only, adapted), the mean entropy of the
    adapted network in nats, and the predicted area as a share of the image, beside the areas of
    the source's reference masks. None of it is an accuracy, and the page says so.

    Args:
        run_dir: the run folder; writes `label_free.html`, `label_free.csv` and pictures.
        source_only: the run before adaptation.
        adapted: the run after it.
        cases: target cases; their masks are not read.
        source_labels: labels of the source's training cases, for the areas to be expected.
    """
    task, rows, pictures = adapted.task, [], []
    images = list(cases["image"])
    pairs = zip(predict_all(source_only, images), predict_all(adapted, images), strict=True)
    for number, (row, (before, after)) in enumerate(zip(cases.itertuples(), pairs, strict=True)):
        p = np.clip(after, 1e-7, 1 - 1e-7)
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)) if task.overlapping else -p * np.log(p)
        a, b = task.masks(before), task.masks(after)
        for i, name in enumerate(task.classes):
            total = a[..., i].sum() + b[..., i].sum()
            agreement = 2 * (a[..., i] & b[..., i]).sum() / total if total else 1.0
            rows.append(
                {
                    "case": row.case,
                    "class": name,
                    "disagreement": 1 - agreement,
                    "entropy": entropy.sum(axis=-1).mean(),
                    "area_share": b[..., i].mean(),
                    "prediction_empty": not b[..., i].any(),
                }
            )
        if number < 6:
            image = read_image(row.image).array
            pictures.append(
                (
                    row.case,
                    panel(
                        {
                            "image": outline(image, b[..., :0]),
                            "source only": outline(image, a),
                            "adapted": outline(image, b),
                        },
                        height=220,
                    ),
                )
            )
    frame = pd.DataFrame(rows)
    hot = [task.one_hot(labels) for labels in source_labels]
    areas = np.stack([h.mean(axis=(0, 1)) for h in hot])
    areas = areas if task.overlapping else areas[:, 1:]
    expected = {
        name: np.percentile(areas[:, i], [5, 50, 95]) for i, name in enumerate(task.classes)
    }
    folder = Path(run_dir)
    with replacing(folder / "label_free.csv") as unfinished:
        frame.to_csv(unfinished, index=False, float_format="%.6g")
    with replacing(folder / "label_free.html") as unfinished:
        unfinished.write_text(_label_free_html(frame, expected, pictures), "utf-8")
    return folder / "label_free.html"


def _label_free_html(frame, expected, pictures):
    lines = []
    for name, part in frame.groupby("class", sort=False):
        low, middle, high = np.percentile(part["area_share"], [5, 50, 95])
        source = expected[name]
        lines.append(
            f"<tr><td>{html.escape(name)}<td>{part['disagreement'].mean():.3f}"
            f"<td>{part['entropy'].mean():.4f}"
            f"<td>{middle:.3f} ({low:.3f} to {high:.3f})"
            f"<td>{source[1]:.3f} ({source[0]:.3f} to {source[2]:.3f})"
            f"<td>{int(part['prediction_empty'].sum())} of {len(part)}"
        )
    figures = []
    for case, picture in pictures:
        data = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        figures.append(
            f"<figure><img alt='overlay of {html.escape(str(case))}' src='data:image/png;"
            f"base64,{base64.b64encode(data).decode()}'><figcaption>"
            f"{html.escape(str(case))}</figcaption></figure>"
        )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Adaptation without target labels</title>
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #8884 }}
img {{ max-width: 100% }} figure {{ margin: 1.2rem 0 }}
.note {{ border-left: 4px solid #d90; padding: .2rem 1rem }}
</style>
<h1>Adaptation without target labels</h1>
<p class="note">The target has no labels, so <b>no accuracy can be given</b>. What follows shows
what the adaptation changed, how sure the network is and how plausible its areas are. A network can
be sure and wrong: have someone who knows the anatomy look at the pictures, or label about 20 cases
and run <code>python scripts/evaluate.py</code>.</p>
<table><tr><th>class<th>disagreement<br>1 − Dice(source only, adapted)<th>entropy per pixel<br>nats
<th>predicted area, share of image<br>median (5 to 95 %)
<th>area in the source's masks<br>median (5 to 95 %)<th>empty predictions</tr>
{"".join(lines)}</table>
{"".join(figures)}
</html>
"""
