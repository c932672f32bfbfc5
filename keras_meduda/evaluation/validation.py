"""What a training is watched by: a function of the network for `km.fit`."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from keras_meduda.data.cases import require_masks, states_of
from keras_meduda.data.checks import read_reference
from keras_meduda.evaluation.confidence import dice
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.progress import track
from keras_meduda.run import Run
from keras_meduda.task import to_json


def mean_dice(cases, task, preprocessing, window=None):
    """A validation: Dice in the grid of the original images, mean over cases and classes.

    Args:
        cases: a case table whose rows all have masks; in a domain adaptation, of the source.
        task: what is segmented.
        preprocessing: of the training.
        window: `km.SlidingWindow`, for a network that trains on crops. Default `None`.

    Returns:
        Function from a network to `{"dice": mean}`; two empty masks score 1. Its `settings` tell
        these cases, as their files are now, from others.

    Raises:
        ValueError: no cases, or one without a mask.
        DataError: once called, a mask of another shape, or position in space, than its image.

    Example:
        >>> import keras_meduda as km
        >>> run, cases = getfixture("run"), km.read_cases(getfixture("phantoms"))
        >>> validation = mean_dice(cases[:2], run.task, run.preprocessing)
        >>> 0 <= validation(run.network)["dice"] <= 1
        True
    """
    require_masks("mean_dice", cases)
    runs = {}  # of one network, so that it is compiled once

    def validation(network):
        run = runs.setdefault(id(network), Run(Path(), network, task, preprocessing, window))
        scores = []
        predictions = predict_all(run, list(cases["image"]))
        rows = zip(cases.itertuples(), predictions, strict=True)
        for row, p in track(rows, len(cases), "validating"):
            reference = task.one_hot(read_reference(row, task))[..., -len(task.classes) :] > 0
            scores.append(dice(task.masks(p), reference))
        return {"dice": float(np.mean(scores))}

    of = [states_of(cases), to_json(task), *([asdict(window)] if window else [])]
    digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()
    validation.settings = f"{len(cases)} cases, {digest[:16]}"
    return validation
