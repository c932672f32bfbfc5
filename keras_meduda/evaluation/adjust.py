"""A run's logits on another scale: one temperature and a bias for each class, no training."""

from dataclasses import dataclass, replace

import keras
import numpy as np
import pandas as pd
from keras import layers
from scipy.optimize import minimize, minimize_scalar

from keras_meduda.data.cases import require_masks
from keras_meduda.data.few import check_few
from keras_meduda.evaluation.calibration import reliability
from keras_meduda.evaluation.confidence import dice, labelled_inputs
from keras_meduda.run import Run, check_run
from keras_meduda.task import probabilities

DOUBTFUL, SURE = 4096, 1024  # pixels of a case that are looked at, of each kind


def adjusted(run: Run, temperature: float = 1.0, bias=0.0) -> Run:
    """A run whose logits are z / T + b; its network saves, loads and exports as any other.

    Args:
        run: what `km.load` or `km.fit` returns.
        temperature: T, above 1 for a network that is surer than it should be. Default 1.
        bias: b of each class, background has none. Default 0.

    Example:
        >>> run = getfixture("run")
        >>> x = np.zeros((1, 32, 32, 3), "float32")
        >>> p, bolder = (r.probabilities(x) for r in (run, adjusted(run, bias=(1.0, 1.0))))
        >>> bool((bolder > p).all())
        True
    """
    channels, classes = run.task.channels, len(run.task.classes)
    offset = np.concatenate([np.zeros(channels - classes), np.broadcast_to(bias, classes)])
    times = sum(layer.name.startswith("adjusted") for layer in run.network.layers)
    name = f"adjusted_{times}" if times else "adjusted"
    scale = layers.Rescaling(1.0 / temperature, offset.tolist(), dtype="float32", name=name)
    outputs = dict(run.network.output)
    outputs["logits"] = scale(outputs["logits"])
    network = keras.Model(run.network.input, outputs, name=run.network.name)
    return replace(run, network=network)


@dataclass(frozen=True)
class Tempered:
    """A run with a temperature, and its reliability before and after.

    Args:
        run: with the temperature in its network.
        temperature: T.
        before: counts of `calibration.reliability`, `(classes, bins, 3)`.
        after: the same with T.
    """

    run: Run
    temperature: float
    before: np.ndarray
    after: np.ndarray


def temper(run: Run, cases: pd.DataFrame) -> Tempered:
    """Scales a run's logits by the temperature that makes held-out labels most likely.

    T minimises the mean negative log-likelihood of the pixels; where a class is present above ½, no
    mask changes in the network's grid.

    Args:
        run: what `km.load` or `km.fit` returns.
        cases: a case table whose rows all have masks, none of which has trained the run.

    Source:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    check_run("temper", run)
    require_masks("temper", cases)
    samples, counts, overlapping = [], [], run.task.overlapping

    def count(p, reference):
        return reliability(p[..., -reference.shape[-1] :], reference)

    seen = list(_predicted(run, cases, "tempering"))
    for _, p, reference in seen:
        samples.append(_sample(p, reference, overlapping))
        counts.append(count(p, reference))

    def likelihood(log_t):
        return sum(_surprise(sample, np.exp(log_t), overlapping) for sample in samples)

    temperature = float(np.exp(minimize_scalar(likelihood, bounds=(-3, 3), method="bounded").x))
    tempered = adjusted(run, temperature)
    after = [
        count(probabilities(_logits(p, overlapping) / temperature, overlapping), reference)
        for _, p, reference in seen
    ]
    return Tempered(tempered, temperature, sum(counts), sum(after))


@dataclass(frozen=True)
class Few:
    """What a handful of labels allows: see `few`.

    Args:
        run: the run to deploy, or `None` where the labels did not help.
        temperature: T, fitted on all cases.
        bias: of each class.
        before: Dice of each patient, mean over cases and classes, as the run is.
        after: the same by the numbers fitted on the other patients.
    """

    run: Run | None
    temperature: float
    bias: tuple[float, ...]
    before: np.ndarray
    after: np.ndarray

    @property
    def reason(self) -> str:
        """What they were worth, in one sentence."""
        was, now, n = self.before.mean(), self.after.mean(), len(self.before)
        if self.run is None:
            return (
                f"The labels of {n} patients are not used: Dice of a patient left out would go "
                f"from {was:.3f} to {now:.3f}."
            )
        return (
            f"The labels of {n} patients set a temperature and a bias for each class: Dice of a "
            f"patient left out goes from {was:.3f} to {now:.3f}."
        )


def few(run: Run, cases: pd.DataFrame, test: pd.DataFrame | None = None) -> Few:
    """Fits a temperature and a bias for each class on a few labelled target cases.

    They maximise the mean soft Dice 2 Σ p y / (Σ p + Σ y). Each patient is left out once; only if
    the mean Dice of those left out improves is a run given back.

    Args:
        run: what `km.load` or `km.fit` returns.
        cases: 5 to 10 labelled cases of different patients; none of a test part.
        test: the cases that the run will be scored on, to refuse those that are also here.

    Raises:
        ValueError: a case without a mask or of the test part, fewer than 3 patients, or a class
            that none of the masks has.
    """
    check_run("few", run)
    check_few(cases, run.task, test)
    samples, masks, groups = [], [], []
    for row, p, reference in _predicted(run, cases, "reading few labels"):
        samples.append(_sample(p, reference, run.task.overlapping))
        masks.append((p, reference))
        groups.append(row.group)
    groups, patients = np.array(groups), sorted(set(groups))
    before, after = [], []
    for patient in patients:
        out = groups == patient
        fit = _fit([s for s, left in zip(samples, out, strict=True) if not left], run.task)
        here = [pair for pair, left in zip(masks, out, strict=True) if left]
        before.append(np.mean([dice(run.task.masks(p), y).mean() for p, y in here]))
        after.append(np.mean([dice(_moved(p, fit, run.task), y).mean() for p, y in here]))
    temperature, bias = _fit(samples, run.task)
    before, after = np.array(before), np.array(after)
    better = adjusted(run, temperature, bias) if after.mean() > before.mean() else None
    return Few(better, temperature, tuple(bias.tolist()), before, after)


def _predicted(run, cases, description):
    """Rows of labelled cases, their probabilities `(*size, channels)` and boolean masks."""
    for row, stored, reference in labelled_inputs(run, cases, description):
        yield row, run.probabilities(run.preprocessing.normalised(stored)[None])[0], reference


def _sample(p, reference, overlapping):
    """Logits, labels and weights of some pixels: most of them where anything is undecided."""
    channels, rng = p.shape[-1], np.random.default_rng(0)
    flat, y = p.reshape(-1, channels), reference.reshape(-1, reference.shape[-1])
    own = flat[:, -y.shape[1] :]
    doubtful = ((own > 1e-3) & (own < 1 - 1e-3)).any(axis=1) | y.any(axis=1)
    picked, weights = [], []
    for places, most in ((np.flatnonzero(doubtful), DOUBTFUL), (np.flatnonzero(~doubtful), SURE)):
        some = rng.choice(places, most, replace=False) if len(places) > most else places
        picked.append(some)
        weights.append(np.full(len(some), len(places) / max(len(some), 1)))
    picked = np.concatenate(picked)
    return _logits(flat[picked], overlapping), y[picked], np.concatenate(weights)


def _logits(p, overlapping):
    p = np.clip(np.asarray(p, "float64"), 1e-7, 1 - 1e-7)
    return np.log(p) - np.log1p(-p) if overlapping else np.log(p)


def _surprise(sample, temperature, overlapping):
    """Mean negative log-likelihood of a sample's labels."""
    z, y, weight = sample
    p = np.clip(probabilities(z / temperature, overlapping), 1e-12, 1 - 1e-12)
    if overlapping:
        found = -np.where(y, np.log(p), np.log1p(-p)).sum(axis=1)
    else:
        winner = np.where(y.any(axis=1), 1 + y.argmax(axis=1), 0)
        found = -np.log(p[np.arange(len(p)), winner])
    return (weight * found).sum() / weight.sum()


def _fit(samples, task):
    """Temperature and biases of the highest mean soft Dice."""
    classes = len(task.classes)

    def loss(numbers):
        total = 0.0
        for z, y, weight in samples:
            p = probabilities(_shifted(z, np.exp(numbers[0]), numbers[1:]), task.overlapping)
            p, w = p[:, -classes:], weight[:, None]
            overlap, size = (w * p * y).sum(axis=0), (w * (p + y)).sum(axis=0)
            total += ((2 * overlap + 1) / (size + 1)).mean()
        return -total / len(samples)

    bounds = [(-2.0, 2.0)] + [(-6.0, 6.0)] * classes
    steps = np.vstack([np.zeros(classes + 1), 0.5 * np.eye(classes + 1)])
    options = {"initial_simplex": steps, "maxiter": 200, "xatol": 0.01, "fatol": 1e-5}
    found = minimize(loss, steps[0], method="Nelder-Mead", bounds=bounds, options=options).x
    return float(np.exp(found[0])), found[1:]


def _shifted(z, temperature, bias):
    """Logits `(…, channels)` by a temperature and the classes' biases."""
    moved = z / temperature
    moved[..., -len(bias) :] += bias
    return moved


def _moved(p, fit, task):
    """Masks of probabilities by a fitted temperature and biases."""
    z = _shifted(_logits(p, task.overlapping), *fit)
    return task.masks(probabilities(z, task.overlapping))
