"""Several predictions of one image made one: under flips, or of several networks.

What is returned stands in for a run in `km.predict` and `km.evaluate`, sliding windows included.
Export takes the network as it is, without either.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keras_meduda.evaluation.postprocess import islands_and_holes
from keras_meduda.run import Run, load, parts


def flips(run, axes) -> Run:
    """A run whose probabilities are the mean over mirror images: 1/2ᵏ Σ_{s ⊆ axes} s⁻¹ p(s x).

    Args:
        run: what `km.load` or `km.fit` returns.
        axes: letters of the axes that are mirrored, such as `"X"` or `"XY"`; k axes cost 2ᵏ
            predictions.

    Returns:
        The run; its `network` is the same.

    Raises:
        ValueError: an axis that the run's preprocessing does not have, or one twice.

    Example:
        >>> import keras_meduda as km
        >>> run = flips(getfixture("run"), "X")
        >>> km.predict(run, np.zeros((50, 40, 3), "uint8")).shape
        (50, 40, 2)
    """
    known = run.preprocessing.axes
    if not set(axes) <= set(known) or len(set(axes)) < len(axes):
        raise ValueError(f"flips: received axes {axes!r}, expected distinct ones out of {known!r}.")
    return _Flipped(**parts(run), run=run, axes=tuple(1 + known.index(axis) for axis in axes))


def vote(runs, smallest: int = 20) -> Run:
    """A run that says what most of several say, each rid of islands and holes, then voted, again.

    A voxel belongs to a class if more than half of the runs say so, counted in the network's grid;
    its probabilities are then 0 or 1. The second clean-up is on the result of the vote.

    Args:
        runs: runs of one task, preprocessing and window; three of different seeds in the original.
        smallest: voxels of an island or a hole that stays (`postprocess.islands_and_holes`).
            Default 20.

    Returns:
        The run; its `network` is that of the first.

    Raises:
        ValueError: no runs, or runs that differ in more than their networks.

    Source:
        `eval.py` of RatLesNetV2 (Valverde et al. 2020).

    Example:
        >>> import keras_meduda as km
        >>> run = getfixture("run")
        >>> p = km.predict(vote([run, run, run]), np.zeros((32, 32, 3), "uint8"))
        >>> set(np.unique(p)) <= {0, 1}
        True
    """
    runs = tuple(runs)
    if not runs:
        raise ValueError("vote: expected one or more runs, received none.")
    for name in ("task", "preprocessing", "window"):
        first = getattr(runs[0], name)
        for run in runs[1:]:
            if (other := getattr(run, name)) != first:
                raise ValueError(
                    f"vote: {run.path} has the {name} {other}, {runs[0].path} {first}; expected "
                    "runs that differ in their networks alone."
                )
    return _Voted(**parts(runs[0]), runs=runs, smallest=smallest)


def load_together(paths, axes="", **how) -> Run:
    """The run in a folder, or those in several as one that votes, each under flips if wished.

    Args:
        paths: run folders.
        axes: of the flips; default none.
        **how: `precision`, `xla` and `engine` of `km.load`.
    """
    runs = [flips(run, axes) if axes else run for run in (load(path, **how) for path in paths)]
    return runs[0] if len(runs) == 1 else vote(runs)


@dataclass(frozen=True)
class _Flipped(Run):
    run: Run | None = None
    axes: tuple[int, ...] = ()

    @cached_property
    def straight(self):
        """The run as it is, which may be flipped or vote itself, in this run's window."""
        return self.run.in_window(self.window)

    def probabilities(self, x):
        straight, k = self.straight.probabilities, len(self.axes)
        ways = [way for n in range(k + 1) for way in itertools.combinations(self.axes, n)]
        return sum(np.flip(straight(np.flip(x, way)), way) for way in ways) / len(ways)


@dataclass(frozen=True)
class _Voted(Run):
    runs: tuple[Run, ...] = ()
    smallest: int = 20

    @cached_property
    def members(self):
        """The runs, in this run's window."""
        return [run.in_window(self.window) for run in self.runs]

    def probabilities(self, x):
        def clean(batch):
            return np.stack([islands_and_holes(masks, self.smallest) for masks in batch])

        said = (clean(self.task.masks(member.probabilities(x))) for member in self.members)
        winners = clean(2 * sum(masks.astype("int32") for masks in said) > len(self.members))
        if not self.task.overlapping:  # the background comes first
            winners = np.concatenate([~winners.any(axis=-1, keepdims=True), winners], axis=-1)
        return winners.astype("float32")
