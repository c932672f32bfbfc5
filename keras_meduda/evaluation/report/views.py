"""Cases as pictures: three that can be wiped and scrolled, and a gallery of the worst."""

import numpy as np
import pandas as pd

from keras_meduda.data.io import read_image, read_mask
from keras_meduda.evaluation.calibration import entropy, largest_entropy
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.report import pictures
from keras_meduda.evaluation.report.tables import main_of
from keras_meduda.teachers.targets import open_targets, target_of

GALLERY = {2: 6, 3: 3}  # small pictures at most, by rank, and never more than half of the cases


def words(name) -> str:
    """A method's name as text."""
    return str(name).replace("_", " ")


def view(heading, case, runs, cases, task, masks=None, targets=None) -> dict:
    """A case as a stack of pictures that the page lays over each other.

    Args:
        heading: over it.
        case: its `(domain, name)`.
        runs: method → run.
        cases: a case table that holds it.
        task: declares the values of the mask files.
        masks: function from probabilities to masks. Default `task.masks`.
        targets: a teacher's table of targets for a task of one class, whose mask comes first.
            Default none.
    """
    row, said = _row_of(case, cases)
    image, main = read_image(row.image), main_of(runs)
    outputs = {name: next(predict_all(run, [row.image])) for name, run in runs.items()}
    found = {name: (masks or task.masks)(p) for name, p in outputs.items()}
    if targets is not None:
        found = {"teacher": _taught(row, targets, image.array.shape[:-1]), **found}
    reference = _reference(row, task)
    shown = [*found.values()] + ([] if reference is None else [reference])
    strip = pictures.Strip.of(np.any([m.any(axis=-1) for m in shown], axis=0), image.spacing)
    most = largest_entropy(task.channels, task.overlapping)
    layers = [(words(name), pictures.coloured(mask, strip)) for name, mask in found.items()]
    if reference is not None:
        layers.append(("reference", pictures.coloured(reference, strip)))
    doubt = pictures.doubtful(entropy(outputs[main], task.overlapping), most, strip)
    layers.append((f"uncertainty of {words(main)}", doubt))
    return {
        "heading": heading,
        "case": said,
        "background": pictures.background(image.array, strip),
        "channels": image.array.shape[-1],
        "tile": strip.tile,
        "slices": strip.labels if strip.axis is not None else [],
        "middle": strip.middle,
        "layers": [{"name": name, "src": src} for name, src in layers],
        "left": int(next(iter(found)) != main),  # 0 is the image itself, 1 the first method
        "right": 1 + list(found).index(main),
        "reference": None if reference is None else pictures.outlined(reference, strip),
        "most": most,
        "classes": [
            (name, pictures.COLOURS[i % len(pictures.COLOURS)])
            for i, name in enumerate(task.classes)
        ],
    }


def gallery(ranked: pd.Series, label: str, run, cases, task, masks=None) -> list[dict]:
    """The worst cases as small pictures: prediction filled, reference outlined.

    Args:
        ranked: `(domain, case)` → value, the worst first.
        label: format of a caption, such as `"Dice {:.2f}"`.
        run: whose predictions are shown.
        cases: a case table that holds them.
        task: declares the values of the mask files.
        masks: function from probabilities to masks. Default `task.masks`.

    Returns:
        `{"src", "case", "label"}` of each; of fewer than four cases none, which are shown large.
    """
    most = min(GALLERY[len(run.preprocessing.size)], len(ranked) // 2)
    shown = ranked.iloc[: most if len(ranked) > 3 else 0]
    found = [_row_of(case, cases) for case in shown.index]
    outputs = predict_all(run, [row.image for row, _ in found])
    made = []
    for (row, said), value, probabilities in zip(found, shown, outputs, strict=True):
        image, reference = read_image(row.image), _reference(row, task)
        mask = (masks or task.masks)(probabilities)
        src = pictures.thumbnail(image.array, mask, reference, image.spacing)
        made.append({"src": src, "case": said, "label": label.format(value)})
    return made


def _row_of(case, cases):
    """The row of a case, and its name, with its domain where others share it."""
    domain, name = case
    namesakes = cases[cases["case"] == name]  # one a domain
    row = next(namesakes[namesakes["domain"] == domain].itertuples())
    return row, name if len(namesakes) == 1 else f"{name}, {domain}"


def _taught(row, targets, shape):
    """The teacher's mask of a case, empty where it failed."""
    target = target_of(open_targets(targets), row)
    return np.zeros((*shape, 1), bool) if target is None else target.probability[..., None] > 0.5


def _reference(row, task):
    """The reference masks of a case; `None` where it has none."""
    if not row.mask:
        return None
    reference = task.one_hot(read_mask(row.mask, task.of(row))).astype(bool)
    return reference if task.overlapping else reference[..., 1:]
