"""How far to go from source only: decided without a label of the target.

θ(a) = θ_source + a (θ_adapted − θ_source) for a in 0, ¼, ½, ¾, 1. Four scores say what can be
known: S1 and S2 look at held-out cases of the source, whose labels are true; S3 and S4 at the
target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
import pandas as pd

from keras_meduda.data.few import FEWEST_IMAGES
from keras_meduda.data.pipeline import Prepared
from keras_meduda.data.subset import evenly
from keras_meduda.evaluation.confidence import dice, soft_dice
from keras_meduda.evaluation.reverse import ReverseValidation
from keras_meduda.evaluation.target_statistics import BATCH
from keras_meduda.progress import track
from keras_meduda.run import Run

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST = {2: 32, 3: 8}  # cases of either domain that are looked at, by rank
TAUGHT = 0.5  # reverse Dice of source only, below which S2 has no vote
CHANCE = 0.05  # by which reverse Dice differs between small networks that were taught alike
HARDLY = 0.001  # of Dice, that no picture shows
LARGER = 1.25  # largest ratio of mean areas at a = 1, and its inverse the smallest
RISE = 0.05  # rise of S1 that permits a fall of confidence, or any area nearer to the source's
MORE_EMPTY = 0.1  # share of further cases in which a class may be found no more


@dataclass(frozen=True)
class Decision:
    """How far to go, the network that goes so far, and why.

    Args:
        a: 0 is source only, 1 the adapted network.
        run: the run to deploy.
        scores: one row for each a: `a`, `s1` and `s2` (Dice), their differences from a = 0 with one
            standard error each (`s1_difference`, `s1_error`, …; NaN of an S2 without a vote),
            `s1_fall`, by how much S1 falls from a smaller a beyond one standard error or 0.001,
            `s3`, `s4_empty`, `s4_area`, and `verdict`, the first rule that refuses it or "passes".
            Empty if nothing was scored.
        reason: two sentences for a reader.
    """

    a: float
    run: Run
    scores: pd.DataFrame
    reason: str


def decide(
    source_only: Run,
    adapted: Run,
    source: Prepared,
    target: Prepared,
    groups: Sequence,
    reverse_steps: int = 100,
    seed: int = 0,
) -> Decision:
    """The largest a whose scores are not below those of source only.

    An a passes if it keeps all rules:

    1. S1, Dice on the source in the target's style, is not lower than at any smaller a by more than
       one standard error of the paired difference (bootstrap over patients) or 0.001. It is scored
       on each kind of twins, and the worst counts: a network is better at twins that it has
       trained on.
    2. S2, reverse Dice, is not lower than at a = 0 by more than one standard error and 0.05. Below
       0.5 at a = 0 it has no vote, and is not asked again: its small network has learnt too little.
    3. S3, confidence on the target, is not lower than at a = 0, unless S1 rises by more than 0.05:
       where the order of grey levels has changed, a network is most confident where it is wrong.
    4. S4, areas: no class is missing in a tenth more of the cases. No mean area is more than
       1.25^(a²) times that of source only, or as much smaller, unless S1 rises by more than 0.05
       and the area comes nearer to that in the source's masks. An area that drifts out of range at
       a = 1, evenly or with the square of a, is out of range at every step towards it.

    Networks in windows are scored in windows that do not overlap.

    Args:
        source_only: the run before adaptation.
        adapted: the run after it, of the same network.
        source: held-out source cases with labels and, as style twins, their looks in the target's
            style, a twin for each way to make it: `add_styles(prepare(cases, …, labels=True),
            target, folder, variants=1)`. S2 is scored on the first.
        target: training images of the target; labels are not looked at.
        groups: patient of each source case.
        reverse_steps: updates of the small network of S2, for each a. Default 100.
        seed: of that network and of all draws. Default 0.

    Returns:
        The decision. With fewer than 8 target cases source only is kept, and the reason says so.

    Raises:
        ValueError: no held-out source cases, or none with labels and style twins; runs of
            different networks.
    """
    _check(source_only, adapted, source, groups)
    if len(target.images) < FEWEST_IMAGES:
        reason = (
            f"Source only is kept: the target has {len(target.images)} cases, and below "
            f"{FEWEST_IMAGES} nothing can be said of a network adapted to them. meduda predict "
            "--adapt-statistics needs no training and remains to be tried."
        )
        return Decision(0.0, source_only, pd.DataFrame(), reason)
    rank = len(source.preprocessing.size)
    held, seen = (evenly(len(half.images), MOST[rank]) for half in (source, target))
    scenes = _Scenes(source.only(held), target.only(seen))
    groups = np.asarray(groups)[held]
    reverse = ReverseValidation(
        scenes.target, scenes.ways[0], scenes.labels, scenes.task, reverse_steps, seed
    )
    way, rows, found = Way(*map(_coarse, (source_only, adapted))), [], []
    for a in track(SHARES, len(SHARES), "guarding"):
        votes = not found or _has_vote(found[0])
        found.append(_scores(way.at(a), scenes, reverse if votes else None))
        rows.append(_compared(a, found, groups, scenes.expected))
    scores = pd.DataFrame(rows)
    passing = scores[scores["verdict"] == "passes"]
    a = float(passing["a"].max())
    run = Way(source_only, adapted).at(a, own=True)
    return Decision(a, run, scores, _reason(a, scores, len(groups), len(seen)))


def interpolate(first: keras.Model, last: keras.Model, a: float) -> list[np.ndarray]:
    """Weights first + a (last − first) of two equal networks, in the order of `get_weights`."""
    pairs = zip(first.get_weights(), last.get_weights(), strict=True)
    return [(w + a * (v - w)).astype(w.dtype) for w, v in pairs]


def styled_dice(run: Run, images, labels) -> np.ndarray:
    """S1: Dice of each source case in the target's style, mean over its classes, `(cases,)`.

    Args:
        run: the run.
        images: inputs of the network `(*size, channels)`.
        labels: boolean masks of each, `(*size, classes)`.
    """
    predicted = (run.task.masks(p) for p in probabilities(run, images))
    return np.array([dice(m, y).mean() for m, y in zip(predicted, labels, strict=True)])


def paired_error(differences, groups, n: int = 2000, seed: int = 0) -> float:
    """Standard error of a mean difference: its deviation over bootstrap draws of patients.

    Example:
        >>> paired_error([0.25, 0.25], ["a", "b"])
        0.0
    """
    means = pd.Series(differences).groupby(np.asarray(groups)).mean().to_numpy()
    draws = np.random.default_rng(seed).integers(len(means), size=(n, len(means)))
    return float(means[draws].mean(axis=1).std())


def area_changes(shares, before, expected=None) -> tuple[float, float]:
    """S4: how many more cases a class is missing in, and the worst ratio of mean areas.

    A class that comes nearer to its area in the masks of the source may grow or shrink by any
    factor: where source only finds a third of a cup, three times as much is no harm. Where the
    source has other proportions that is wrong, so `decide` asks for more.

    Args:
        shares: share of the image that each class takes, `(cases, classes)`.
        before: the same of source only.
        expected: the same of the source's masks, of other cases. Default: none is known.

    Returns:
        The largest difference, over classes, of the shares of cases without it; and the ratio of
        mean areas that is farthest from 1, among classes that source only finds and that do not
        come nearer to what is expected; 1 where there is none.

    Example:
        >>> area_changes([[0.1], [0.0]], [[0.1], [0.3]])
        (0.5, 0.25)
    """
    shares, before = np.asarray(shares, "float64"), np.asarray(before, "float64")
    empty = float(((shares == 0).mean(axis=0) - (before == 0).mean(axis=0)).max())
    now, then = shares.mean(axis=0), before.mean(axis=0)
    counted = then > 0
    if expected is not None:
        known = np.log(np.maximum(np.mean(np.asarray(expected, "float64"), axis=0), 1e-6))
        far, near = (np.abs(np.log(np.maximum(x, 1e-6)) - known) for x in (then, now))
        counted &= near > far
    ratios = now[counted] / then[counted]
    if not ratios.size:
        return empty, 1.0
    distance = np.abs(np.log(np.maximum(ratios, 1e-6)))
    return empty, float(ratios[distance.argmax()])


def probabilities(run: Run, images):
    """Class probabilities of inputs of the network, one after the other."""
    step = BATCH if len(run.preprocessing.size) == 2 else 1
    for first in range(0, len(images), step):
        yield from run.probabilities(np.stack(images[first : first + step]))


class _Scenes:
    """The cases that are looked at, as inputs of the network."""

    def __init__(self, source, target):
        self.task = source.task
        self.ways = [inputs_of(source, files) for files in zip(*source.styles, strict=True)]
        self.labels = [
            self.task.one_hot(source.label_map(file))[..., -len(self.task.classes) :] > 0
            for file in source.labels
        ]
        self.expected = [label.mean(axis=tuple(range(label.ndim - 1))) for label in self.labels]
        self.target = inputs_of(target)


def inputs_of(prepared, files=None):
    """What a network takes of prepared images, or of others such as their twins."""
    images = (prepared.image(file).astype("float32") for file in files or prepared.images)
    return list(map(prepared.preprocessing.normalised, images))


class Way:
    """The runs between source only and adapted; all share one copy, which is compiled once.

    Batch-norm statistics lie between those of the two as the weights do. Those of the target alone
    were tried in their place: they gain more where its looks are all that differs, and lose up to
    six points where its classes take other shares of the image (benchmarks/shifts_notes.md).

    Args:
        source_only: the run before adaptation.
        adapted: the run after it, of the same network.
    """

    def __init__(self, source_only, adapted):
        self.ends = source_only, adapted
        self.between = self._copy()

    def _copy(self):
        return replace(self.ends[1], network=keras.models.clone_model(self.ends[1].network))

    def at(self, a, own=False):
        """The run at a share of the way: a copy if `own`, else the next call overwrites it."""
        if a == 0:
            return self.ends[0]
        run = self._copy() if own else self.between
        run.network.set_weights(interpolate(*(end.network for end in self.ends), a))
        return run


def _coarse(run):
    """The run in windows that do not overlap: a choice needs no more."""
    return run.in_window(run.window.apart) if run.window else run


def _has_vote(first):
    """Whether the small network of S2 learns enough from the masks of source only."""
    return np.mean(first["s2"]) >= TAUGHT


def _scores(run, scenes, reverse):
    """The four scores of a run, by case where it has one; S2 where it has a vote."""
    masks, sure, areas = [], [], []
    for p in probabilities(run, scenes.target):
        mask = scenes.task.masks(p)
        masks.append(mask)
        sure.append(soft_dice(p[..., -mask.shape[-1] :], mask).mean())
        areas.append(mask.mean(axis=tuple(range(mask.ndim - 1))))
    return {
        "s1": [styled_dice(run, images, scenes.labels) for images in scenes.ways],
        "s2": [reverse.dice(masks) if reverse else np.full(len(scenes.labels), np.nan)],
        "s3": float(np.mean(sure)),
        "areas": areas,
    }


def _compared(a, found, groups, expected):
    """A row of the table: the scores at the last a beside those at smaller ones, the verdict."""
    row, first, scores = {"a": a}, found[0], found[-1]
    for name in ("s1", "s2"):
        way, row[f"{name}_difference"], row[f"{name}_error"] = _worst(
            scores[name], first[name], groups
        )
        row[name] = float(scores[name][way].mean())
    falls = [_worst(scores["s1"], earlier["s1"], groups)[1:] for earlier in found]
    row["s1_fall"] = max(-difference - max(error, HARDLY) for difference, error in falls)
    row["s3"] = scores["s3"]
    known = expected if row["s1_difference"] > RISE else None
    row["s4_empty"], row["s4_area"] = area_changes(scores["areas"], first["areas"], known)
    return row | {"verdict": _verdict(row, first)}


def _worst(scores, others, groups):
    """Which way's Dice falls most surely from one network to another, its difference and error."""
    differences = np.subtract(scores, others)
    means, errors = differences.mean(axis=1), [paired_error(d, groups) for d in differences]
    way = int(np.add(means, errors).argmin())
    return way, float(means[way]), errors[way]


def _verdict(row, first):
    if row["s1_fall"] > 0:
        how = f"{row['s1_fall']:.3f} more than its standard error"
        return f"Dice on the source in the target's style falls by {how}"
    fall = -row["s2_difference"]
    if _has_vote(first) and fall > max(row["s2_error"], CHANCE):
        return f"reverse Dice falls by {fall:.3f}"
    if row["s3"] < first["s3"] and row["s1_difference"] <= RISE:
        return f"confidence falls from {first['s3']:.3f} to {row['s3']:.3f}"
    if row["s4_empty"] > MORE_EMPTY:
        return f"a class is missing in {100 * row['s4_empty']:.0f} % more of the cases"
    if abs(np.log(max(row["s4_area"], 1e-6))) > row["a"] ** 2 * np.log(LARGER):
        return f"the area of a class is {row['s4_area']:.2f} times that of source only"
    return "passes"


def _reason(a, scores, held, seen):
    last, taught = scores.iloc[-1], scores["s2"].iloc[0]
    row = scores[scores["a"] == a].iloc[0] if a else last
    reverse = f"by {row['s2_difference']:+.3f}"
    if taught < TAUGHT:
        reverse = f"has no vote ({taught:.2f} for source only)"
    figures = (
        f"On {held} held-out source cases and {seen} target images, Dice on the source in the "
        f"target's style changes by {row['s1_difference']:+.3f}, reverse Dice {reverse}, "
        f"confidence to {row['s3']:.3f}."
    )
    if a == 0:
        return f"Source only is kept: with the adapted network {last['verdict']}. {figures}"
    if a == 1:
        return f"The adapted network is taken: no score speaks against it. {figures}"
    return (
        f"The network {100 * a:.0f} % of the way from source only to adapted is taken; all the way "
        f"{last['verdict']}. {figures}"
    )


def _check(source_only, adapted, source, groups):
    shapes = [[w.shape for w in run.network.weights] for run in (source_only, adapted)]
    if shapes[0] != shapes[1]:
        raise ValueError("decide: source only and adapted are different networks.")
    if not source.images or not source.labels or not source.styles:
        raise ValueError(
            f"decide: {len(source.images)} held-out source cases, {len(source.labels)} with labels "
            f"and {len(source.styles)} with style twins; expected all three, made by "
            "add_styles(prepare(cases, ..., labels=True), target, folder, variants=1)."
        )
    if len(groups) != len(source.images):
        raise ValueError(
            f"decide: {len(groups)} groups for {len(source.images)} source cases; expected as many."
        )
