"""The model card of a run: `README.md` with the head that the Hugging Face hub reads."""

import json
from pathlib import Path

from keras_meduda.data.io import replacing
from keras_meduda.run.decided import chosen

_METRICS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "assd": "ASSD"}
_LENGTHS = ("hd95", "assd")  # in the task's unit
_CARD = """---
library_name: keras
pipeline_tag: image-segmentation
tags:
- keras-meduda
- medical-imaging
- image-segmentation
{index}---
# {name}

Segments {classes} in {images}. Trained with keras_meduda by {method}.

## Task

{task}

## Training

{training}

## Intended use

For research on images like those of the training: of the same organ, kind of scanner and
preparation. It is no medical device and decides about no patient. On other images look at its masks
and score it on labelled cases first (`meduda evaluate`).

## Scores

{scores}

## Load it

```python
import keras_meduda as km

run = km.load({path})
probabilities = km.predict(run, "image{ending}")  # in the image's own grid
masks = run.task.masks(probabilities)  # one boolean mask a class
```

{files}
"""


def model_card(run_dir) -> str:
    """The text of a run's card: task, data, intended use, scores with intervals, how to load it.

    Args:
        run_dir: a run folder. Its scores are those of `evaluation/*/summary.json`.

    Returns:
        Markdown with a YAML head.

    Raises:
        FileNotFoundError: the folder has no `config.json`.
    """
    folder = Path(run_dir)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: expected a run folder with config.json, found none.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    task, preprocessing = config["task"], config["preprocessing"]
    volumes, name = len(preprocessing["size"]) == 3, folder.resolve().name
    summaries = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("evaluation/*/summary.json"))
    }
    rows = list(_rows(summaries))
    return _CARD.format(
        index=_index(name, rows),
        name=name,
        classes=_and(task["classes"]),
        images="volumes" if volumes else "pictures",
        method=config.get("method", "an unknown method"),
        task=_task(task, preprocessing),
        training=_training(config),
        scores=_scores(rows, task["unit"]),
        path=json.dumps(name),
        ending=".nii.gz" if volumes else ".png",
        files=_files(folder),
    )


def write_model_card(run_dir) -> Path:
    """Writes `README.md` into a run folder, in one step or not at all.

    Args:
        run_dir: the run folder.

    Returns:
        The path; a README.md that a person wrote, without a card's head, is not replaced.
    """
    path = Path(run_dir) / "README.md"
    text = model_card(run_dir)
    head = "---\nlibrary_name: keras\n"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(head):
        return path
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _files(folder):
    """What the files of the folder are, and which network it is used with."""
    said = "`config.json` holds task, preprocessing and settings, `network.keras` the network."
    if (network := chosen(folder)) != folder:
        said += f" It is used with the network that its adaptation decided for, `{network.name}`."
    return said


def _and(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rows(summaries):
    """`(evaluation, cases, groups, class, metric, its numbers)` of everything that was scored."""
    for evaluation, summary in summaries.items():
        for name, metrics in summary["classes"].items():
            for metric in _METRICS:
                numbers = metrics.get(metric, {})
                if numbers.get("mean") is not None:
                    yield evaluation, summary["n"], summary["groups"], name, metric, numbers


def _index(name, rows):
    """The scores as the hub reads them."""
    if not rows:
        return ""
    lines = ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for evaluation in dict.fromkeys(row[0] for row in rows):
        lines += [
            "  - task:",
            "      type: image-segmentation",
            "    dataset:",
            f"      name: {json.dumps(evaluation)}",
            f"      type: {json.dumps(evaluation)}",
            "    metrics:",
        ]
        for other, _, _, label, metric, numbers in rows:
            if other == evaluation:
                lines += [
                    f"    - type: {metric}",
                    f"      name: {json.dumps(f'{_METRICS[metric]}, {label}', ensure_ascii=False)}",
                    f"      value: {numbers['mean']:.6g}",
                ]
    return "\n".join(lines) + "\n"


def _task(task, preprocessing):
    """Classes, their mask values and the network's input."""
    size = " × ".join(map(str, preprocessing["size"]))
    unit = "voxels" if len(preprocessing["size"]) == 3 else "px"
    values = [f"| {name} | {_few(task['values'][name])} |" for name in task["classes"]]
    overlap = "Classes may overlap." if task["overlapping"] else "Classes exclude each other."
    return "\n".join(
        [
            "| class | values in mask files |",
            "|---|---|",
            *values,
            "",
            f"{overlap} The network sees {size} {unit} "
            f"with {preprocessing['channels']} channels, in the order {preprocessing['axes']}; "
            "images of other sizes are brought there and masks brought back.",
        ]
    )


def _few(values):
    return ", ".join(map(str, values))


def _training(config):
    """Network, steps and data, as far as the run says so."""
    lines = [f"Network: {config.get('network', 'unknown')}."]
    lines.append(f"First weights: {config.get('weights') or 'random'}.")
    if "steps" in config:
        lines.append(
            f"{config['steps']:,} steps of {config.get('batch_size')} images, seed "
            f"{config.get('seed')}; weights kept: {config.get('keep')}."
        )
    data = config.get("data") or {}
    for part, use in (("source", "with labels"), ("target", "without labels, or taught")):
        if images := str(data.get(part, "")).partition(",")[0]:  # "72 images, <digest>"
            lines.append(f"{part.capitalize()}: {images}, {use}.")
    return " ".join(lines) + " The images themselves are not part of this folder."


def _scores(rows, unit):
    """A table of means with intervals."""
    if not rows:
        return "Not scored yet: `meduda evaluate` adds the scores on labelled cases."
    lines = ["| evaluation | cases | groups | class | metric | mean | 95 % interval |"]
    lines.append("|---|--:|--:|---|---|--:|---|")
    for evaluation, cases, groups, name, metric, numbers in rows:
        label = _METRICS[metric] + (f", {unit}" if metric in _LENGTHS else "")
        low, high = numbers.get("ci95") or (None, None)
        interval = f"{low:.4g} to {high:.4g}" if groups > 1 and low is not None else "–"
        mean = f"{numbers['mean']:.4g}"
        lines.append(
            f"| {evaluation} | {cases} | {groups} | {name} | {label} | {mean} | {interval} |"
        )
    return "\n".join(lines) + "\n\nIntervals: bootstrap over groups, such as patients."
