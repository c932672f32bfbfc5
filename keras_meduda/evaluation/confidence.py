"""How good a prediction will be, said without its label: a predicted Dice with an interval."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cases import require_masks
from keras_meduda.data.checks import read_labelled
from keras_meduda.data.io import replacing
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.progress import track
from keras_meduda.run import check_run

FILE = "confidence.json"
FEWEST = 8  # patients to calibrate on
LEVEL = 0.9  # share of cases that an interval is to hold
VIEWS = (0.0, 1.0, 2.0)  # strength of the changes that each calibration case is shown under
WIDTH = 0.05  # residuals are counted in units of this and what is lacking to a Dice of 1


@dataclass(frozen=True)
class Confidence:
    """What a run's soft Dice confidence s promises of its Dice: d(s) = clip(offset + slope · s).

    Beyond the confidences that were seen the line does not go on: s counts as the nearest of them.
    The interval of a case is d ± (q (0.05 + 1 − d) + slope · e) within 0…1, with q the `level`
    quantile of the calibration cases' |true − d| / (0.05 + 1 − d), poor predictions are known less
    well, and e how far s lies outside of the confidences that were seen. q is that of the view of
    the calibration cases in which it is largest: the interval is to hold in each, not on average.

    Args:
        classes: names of the classes.
        slope: by class, 0 or more.
        offset: by class.
        spread: q by class.
        empty: mean true Dice where a class was found nowhere: 1 where it was rightly not there.
        level: share of cases that an interval is to hold.
        groups: number of patients that it was calibrated on.
        error: mean absolute error over them by class, each left out of its own calibration.
        threshold: that of the task, where its classes overlap. Default 0.5.
        least: 5th percentile of the confidences that were seen, by class. Default: no limit.
        most: their 95th percentile. Default: no limit.
    """

    classes: tuple[str, ...]
    slope: tuple[float, ...]
    offset: tuple[float, ...]
    spread: tuple[float, ...]
    empty: tuple[float, ...]
    level: float
    groups: int
    error: tuple[float, ...]
    threshold: float = 0.5
    least: tuple[float, ...] = (0.0,)
    most: tuple[float, ...] = (1.0,)

    def predict(self, probabilities):
        """Predicted Dice of one case and its interval, without a label.

        Args:
            probabilities: `(*spatial, channels)`, as `km.predict` gives them.

        Returns:
            `(dice, low, high)`, float64 `(classes,)` each. Where a class is found nowhere, the
            interval is 0 to 1.
        """
        p = np.asarray(probabilities, "float32")
        masks = p > self.threshold if p.shape[-1] == len(self.classes) else _winners(p)
        return self.of(soft_dice(p[..., -len(self.classes) :], masks))

    def of(self, confidence):
        """The same of soft Dice confidences `(…, classes)`; 0 says that a mask is empty."""
        s = np.asarray(confidence, "float64")
        seen = np.clip(s, self.least, self.most)
        d = np.clip(np.asarray(self.offset) + np.asarray(self.slope) * seen, 0, 1)
        beyond = np.abs(s - seen)
        half = np.asarray(self.spread) * (WIDTH + 1 - d) + np.asarray(self.slope) * beyond
        there = s > 0
        return (
            np.where(there, d, self.empty),
            np.where(there, np.clip(d - half, 0, 1), 0.0),
            np.where(there, np.clip(d + half, 0, 1), 1.0),
        )

    def save(self, run_dir) -> None:
        """Writes `confidence.json` into a run folder."""
        with replacing(Path(run_dir) / FILE) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, run_dir):
        """The calibration that a run folder holds.

        Raises:
            FileNotFoundError: it holds none.
        """
        file = Path(run_dir) / FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: this run was not calibrated, for want of {FEWEST} held-out patients; "
                "meduda temper --run RUN --cases LABELLED --out COPY calibrates a copy."
            )
        values = json.loads(file.read_text())
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def calibrate(run, cases: pd.DataFrame, level: float = LEVEL, seed: int = 0) -> Confidence:
    """Learns on held-out labelled cases what a run's confidence is worth, and keeps it in its run.

    Each case is seen as it is and under changes of appearance of two strengths, so that poor
    predictions are among what is learnt from. All is measured in the network's grid.

    Args:
        run: what `km.load` or `km.fit` returns; `confidence.json` is written into its folder.
        cases: a case table whose rows all have masks, none of which has trained the run.
        level: share of cases that an interval is to hold. Default 0.9.
        seed: of the changes. Default 0.

    Returns:
        The calibration.

    Raises:
        ValueError: a case without a mask, or cases of fewer than 8 patients.

    Source:
        Split conformal prediction with normalised residuals: Lei et al., JASA 113(523), 2018.
    """
    check_run("calibrate", run)
    require_masks("calibrate", cases)
    if (count := cases["group"].nunique()) < FEWEST:
        raise ValueError(
            f"calibrate: cases of {count} patients; expected {FEWEST} or more, kept back from "
            "training."
        )
    said, true, groups, views = [], [], [], []
    for number, (row, stored, reference) in enumerate(labelled_inputs(run, cases, "calibrating")):
        for strength in VIEWS:
            view = _changed(stored, strength, (seed, number), run.preprocessing.zscored)
            p = run.probabilities(run.preprocessing.normalised(view)[None])[0]
            masks = run.task.masks(p)
            said.append(soft_dice(p[..., -masks.shape[-1] :], masks))
            true.append(dice(masks, reference))
            groups.append(row.group)
            views.append(strength)
    found = fitted(run.task.classes, said, true, groups, level, views)
    confidence = replace(found, threshold=run.task.threshold)
    if run.path.is_dir():
        confidence.save(run.path)
    return confidence


def promised(run, confidence: Confidence, images: Sequence, names: Sequence[str]) -> pd.DataFrame:
    """Predicted Dice of images without labels.

    Args:
        run: the run that was calibrated.
        confidence: its calibration.
        images: as `km.predict` takes them.
        names: of the images.

    Returns:
        One row an image and class: `case, class, dice, low, high`.
    """
    rows = []
    for name, p in zip(names, predict_all(run, images), strict=True):
        columns = zip(confidence.classes, *confidence.predict(p), strict=True)
        rows += [(name, *column) for column in columns]
    return pd.DataFrame(rows, columns=["case", "class", "dice", "low", "high"])


def labelled_inputs(run, cases: pd.DataFrame, description: str):
    """Labelled cases in the network's grid, one after the other.

    Args:
        run: whose task and preprocessing they are read by.
        cases: a case table whose rows all have masks.
        description: of the progress bar.

    Yields:
        `(row, image, reference)`: the image as it is stored, float32 `(*size, channels)`, and its
        boolean masks `(*size, classes)`.

    Raises:
        DataError: an image that cannot be read or holds NaN, or a mask that does not lie where its
            image does.
    """
    for row in track(list(cases.itertuples()), len(cases), description):
        image, labels = read_labelled(row, run.task, run.preprocessing.nan_background)
        arrays = image.array, image.spacing
        labels = run.preprocessing.stored_labels(labels, *arrays)
        reference = run.task.one_hot(labels)[..., -len(run.task.classes) :] > 0
        yield row, run.preprocessing.stored(*arrays).astype("float32"), reference


def fitted(
    classes: Sequence[str], said, true, groups, level: float = LEVEL, views=None
) -> Confidence:
    """A calibration from soft Dice confidences and true Dice, `(cases, classes)` both.

    Args:
        classes: names.
        said: soft Dice confidence, 0 where a mask was empty.
        true: Dice.
        groups: patient of each case; residuals of a patient come from a line without him.
        level: share of cases that an interval is to hold. Default 0.9.
        views: how each case was shown, such as the strength of a change. Default: all alike.
    """
    said, true = np.asarray(said, "float64"), np.asarray(true, "float64")
    codes, names = pd.factorize(np.asarray(groups))
    views = np.zeros(len(codes)) if views is None else np.asarray(views)
    columns = [_fit_class(s, d, codes, views, level) for s, d in zip(said.T, true.T, strict=True)]
    slope, offset, spread, empty, error, *seen = (tuple(c) for c in zip(*columns, strict=True))
    fit = slope, offset, spread, empty, level, len(names), error
    return Confidence(tuple(classes), *fit, least=seen[0], most=seen[1])


def _fit_class(s, d, codes, views, level):
    there = s > 0
    empty = float(d[~there].mean()) if (~there).any() else 0.0
    s, d, codes, views = s[there], d[there], codes[there], views[there]
    if len(s) < 2:
        return 1.0, 0.0, 1 / WIDTH, empty, 1.0, 0.0, 1.0  # nothing is known: 0 to 1, always
    slope, offset = _line(s, d)
    left_out = np.empty_like(d)
    for code in np.unique(codes):
        others = codes != code
        line = _line(s[others], d[others]) if others.any() else (slope, offset)
        left_out[~others] = np.clip(line[1] + line[0] * s[~others], 0, 1)
    error = np.abs(d - left_out)
    scores = error / (WIDTH + 1 - left_out)
    spread = max(_quantile(scores[views == v], codes[views == v], level) for v in np.unique(views))
    least, most = map(float, np.quantile(s, [0.05, 0.95]))
    return slope, offset, spread, empty, float(error.mean()), least, most


def _quantile(scores, codes, level):
    """Finite-sample quantile of split conformal prediction: level · (1 + 1 / patients)."""
    level = min(level * (1 + 1 / len(np.unique(codes))), 1.0)
    return float(np.sort(scores)[math.ceil(level * len(scores)) - 1])


def _line(s, d):
    """Slope, at least 0, and offset of least squares."""
    variance = ((s - s.mean()) ** 2).mean()
    slope = ((s - s.mean()) * (d - d.mean())).mean() / variance if variance > 1e-12 else 0.0
    slope = max(float(slope), 0.0)
    return slope, float(d.mean() - slope * s.mean())


def _changed(image, strength, seed, zscored):
    """An image as another scanner might have shown it, the stronger the farther from the source."""
    if not strength:
        return image
    from keras_meduda.data.augment import Intensity, Photometry

    seed = (seed[0], 1000 * seed[1] + int(10 * strength))
    k = 0.5 * strength
    effect = (
        Intensity(
            brightness=0.6 * k, contrast=0.6 * k, gamma=1.0 * k, blur=2.0 * k, noise=0.3 * k,
            probability=1.0,
        )
        if zscored
        else Photometry(
            brightness=0.3 * k, contrast=0.5 * k, gamma=1.0 * k, colour=0.3 * k,
            saturation=0.5 * k, blur=3.0 * k, noise=0.08 * k,
        )
    )  # fmt: skip
    return np.asarray(effect.apply(image, effect.sample(seed)))


def _winners(p):
    return np.argmax(p, axis=-1)[..., None] == np.arange(1, p.shape[-1])


def dice(first, second) -> np.ndarray:
    """Dice of boolean masks by class, `(*spatial, classes)` both; two empty ones have 1.

    2 |A ∩ B| / (|A| + |B|).

    Example:
        >>> dice([[True], [True]], [[True], [False]]).round(3).tolist()
        [0.667]
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    axes = tuple(range(a.ndim - 1))
    total = np.count_nonzero(a, axis=axes) + np.count_nonzero(b, axis=axes)
    both = np.count_nonzero(a & b, axis=axes)
    return np.where(total > 0, 2.0 * both / np.maximum(total, 1), 1.0)


def soft_dice(probabilities, masks) -> np.ndarray:
    """Soft Dice confidence by class, 2 Σ p m / (Σ p + Σ m); 0 where a mask is empty.

    The Dice between a mask and what the network believes: 1 where it has no doubt.

    Args:
        probabilities: of the classes, `(*spatial, classes)`.
        masks: boolean, of the same shape.

    Source:
        Soft Dice confidence (Borges et al., arXiv 2402.10665).

    Example:
        >>> soft_dice([[0.5], [1.0]], [[False], [True]]).tolist()
        [0.8]
    """
    p, m = np.asarray(probabilities, "float32"), np.asarray(masks, bool)
    axes = tuple(range(m.ndim - 1))
    overlap = np.sum(p * m, axis=axes, dtype="float64")
    total = np.sum(p, axis=axes, dtype="float64") + np.count_nonzero(m, axis=axes)
    return np.where(m.any(axis=axes), 2 * overlap / np.maximum(total, 1e-12), 0.0)
