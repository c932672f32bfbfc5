"""In which style a teacher should see the target: chosen on its images, without labels."""

from dataclasses import dataclass
from itertools import combinations

import keras
import numpy as np
import pandas as pd

from keras_meduda.evaluation.guard import paired_error, probabilities
from keras_meduda.evaluation.target_statistics import batch_norms, re_estimate, statistics_batches
from keras_meduda.run import Run


@dataclass(frozen=True)
class Choice:
    """The view that a teacher should be shown.

    Args:
        view: its name.
        scores: one row a view: `view, score, agreement` (times certainty, mean over cases),
            `distance` (of batch-norm statistics), `difference` from the first view and its `error`.
    """

    view: str
    scores: pd.DataFrame


def choose_view(run: Run, views: dict, groups, beta: float = 0.1) -> Choice:
    """The view of the target in which a network agrees most with itself.

    score = mean over cases of agreement · (1 − entropy) − β · distance. Agreement is the mean Dice
    of the masks under five flips and turns, entropy that of their vote over the pixels that any of
    them finds, distance how far batch-norm statistics move. A view that is not better than the
    first by more than one standard error (bootstrap over patients) does not replace it.

    Args:
        run: the teacher, trained on the source.
        views: `{"as it is": images, "histograms": …, "bands": …}`, inputs of the network
            `(*size, channels)` of the same cases in the same order; the first is the image as it
            is.
        groups: patient of each case.
        beta: β. Default 0.1.

    Raises:
        ValueError: views of different numbers of cases.
    """
    if len({len(images) for images in views.values()} | {len(groups)}) > 1:
        counts = {name: len(images) for name, images in views.items()}
        raise ValueError(f"choose_view: {counts} images, {len(groups)} groups; expected as many.")
    rows, first = [], None
    for name, images in views.items():
        agreed = np.array([agreement(run, image) for image in images])
        distance = statistics_distance(run, images)
        score = agreed.mean() - beta * distance
        first = first or (agreed, score)
        row = {"view": name, "score": score, "agreement": agreed.mean(), "distance": distance}
        error = paired_error(agreed - first[0], groups)
        rows.append({**row, "difference": score - first[1], "error": error})
    scores = pd.DataFrame(rows)
    best = scores.loc[scores["score"].idxmax()]
    clear = best["difference"] > best["error"]
    return Choice(best["view"] if clear else scores["view"][0], scores)


def agreement(run: Run, image) -> float:
    """How much a network agrees with itself on one image under flips and turns, 0 to 1.

    Mean over classes of mean pairwise Dice · (1 − vote entropy over the union, in bits); masks that
    are both empty agree 0, or finding nothing would be best.

    Args:
        run: the run.
        image: input of the network, `(*size, channels)`.
    """
    turned = [turn(image) for turn, _ in _turns(image.shape[:-1])]
    seen = zip(_turns(image.shape[:-1]), probabilities(run, turned), strict=True)
    masks = np.stack([back(run.task.masks(p)) for (_, back), p in seen])
    return float(np.mean([_agreed(masks[..., c]) for c in range(masks.shape[-1])]))


def statistics_distance(run: Run, images) -> float:
    """How far a network's batch-norm statistics are from those of images, mean over all channels.

    |μ' − μ| / σ, in deviations; 0 of a network without batch normalisation.

    Args:
        run: the run.
        images: inputs of the network.
    """
    norms = batch_norms(run.network)
    if not norms:
        return 0.0
    moved = keras.models.clone_model(run.network)
    moved.set_weights(run.network.get_weights())
    re_estimate(moved, statistics_batches(images, run.window))
    found = []
    for norm, other in zip(norms, batch_norms(moved), strict=True):
        mean, there = np.asarray(norm.moving_mean), np.asarray(other.moving_mean)
        deviation = np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        found.append(np.abs(there - mean) / deviation)
    return float(np.concatenate(found).mean())


def _agreed(masks):
    """The score of one class, of boolean masks `(turns, *size)`."""
    flat = masks.reshape(len(masks), -1)
    areas = flat.sum(axis=1)
    pairs = [
        2 * (flat[i] & flat[j]).sum() / total if (total := areas[i] + areas[j]) else 0.0
        for i, j in combinations(range(len(flat)), 2)
    ]
    votes = flat.mean(axis=0)
    v = votes[votes > 0]
    entropy = -(v * np.log2(v) + (1 - v) * np.log2(np.maximum(1 - v, 1e-12)))
    return np.mean(pairs) * (1 - (entropy.mean() if v.size else 0.0))


def _turns(size):
    """Five ways to turn an image, the first of them none, each with its way back."""
    if len(size) == 2:
        ways = [(), (0,), (1,), (0, 1)]
    else:
        ways = [(), (0,), (1,), (2,), (0, 1, 2)]
    turns = [(lambda x, w=w: np.flip(x, w), lambda x, w=w: np.flip(x, w)) for w in ways]
    if len(size) == 2:  # the fifth turns a square by a quarter
        square = size[0] == size[1]
        quarter = (lambda x: np.rot90(x), lambda x: np.rot90(x, -1))
        turns += [quarter] if square else []
    return turns
