"""Batch-norm statistics of the target: the least adaptation there is, without training."""

import contextlib
from dataclasses import replace

import keras
import numpy as np
from keras import layers

from keras_meduda.data.io import DataError
from keras_meduda.data.subset import evenly
from keras_meduda.evaluation.predict import network_input
from keras_meduda.models.stages import leaves
from keras_meduda.run import check_run

MOST = 64  # images from which statistics are taken
BATCH = 8  # pictures, or windows of volumes, that pass together


def with_target_statistics(run, images, seed: int = 0):
    """A run whose batch-norm statistics are those of new images; no weight moves, no label is read.

    Mean and variance of every layer become averages over batches of the images, each normalised as
    in training, without dropout. Images that cannot be predicted are left out.

    Args:
        run: what `km.load` or `km.fit` returns.
        images: paths (or table cells), `Image`s and arrays, as for `km.predict`; of more than 64 so
            many are taken, evenly spread.
        seed: of the places of windows in a run that predicts in windows. Default 0.

    Returns:
        The run, its `network` a copy.

    Raises:
        ValueError: no images, or a network without batch normalisation.
        DataError: images of which none can be predicted; what is wrong with each.

    Source:
        Li et al., Revisiting batch normalization for practical domain adaptation, 2016.

    Example:
        >>> run = with_target_statistics(getfixture("run"), [np.zeros((50, 40, 3), "uint8")] * 2)
        >>> run.network.name
        'aerunet'
    """
    check_run("with_target_statistics", run)
    if not len(images):
        raise ValueError("with_target_statistics: no images; expected some of the target.")
    if not batch_norms(run.network):
        raise ValueError(
            f"with_target_statistics: '{run.network.name}' has no batch normalisation, so no "
            "statistics that could be the target's; predict with the run as it is."
        )
    inputs = _inputs(run, [images[i] for i in evenly(len(images), MOST)])
    network = keras.models.clone_model(run.network)
    network.set_weights(run.network.get_weights())
    re_estimate(network, statistics_batches(inputs, run.window, seed))
    return replace(run, network=network)


def batch_norms(network) -> list:
    """The layers of a network that keep running statistics."""
    return [x for x in leaves(network) if isinstance(x, layers.BatchNormalization)]


def re_estimate(network, batches) -> None:
    """Sets all batch-norm statistics of a network to their averages over batches, in place.

    Args:
        network: of the network contract.
        batches: its inputs, `(batch, *size, channels)` each.
    """
    norms = batch_norms(network)
    with _as_in_training(network, norms):
        for number, batch in enumerate(batches):
            for norm in norms:  # an average over all so far; the first takes the old one's place
                norm.momentum = number / (number + 1)
            network(batch, training=True)


def statistics_batches(inputs, window=None, seed: int = 0):
    """Batches of inputs `(*size, channels)`, of a run with windows one of a random place of each.

    Yields:
        float32 arrays of up to 8 pictures, windows or, where a volume goes whole, of one.
    """
    rng, waiting = np.random.default_rng(seed), []
    for x in inputs:
        size = x.shape[:-1]
        if window:
            sides = [min(pair) for pair in zip(window.size, size, strict=True)]
            start = [rng.integers(n - side + 1) for n, side in zip(size, sides, strict=True)]
            x = x[tuple(slice(s, s + side) for s, side in zip(start, sides, strict=True))]
        waiting.append(x)
        if len(waiting) == (BATCH if window or len(size) == 2 else 1):
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


@contextlib.contextmanager
def _as_in_training(network, norms):
    """Statistics move, dropout does not; afterwards all is as it was."""
    dropped = [layer for layer in leaves(network) if isinstance(layer, layers.Dropout)]
    kept = [(norm, norm.momentum, norm.trainable) for norm in norms]
    rates = [(layer, layer.rate) for layer in dropped]
    for norm in norms:
        norm.trainable = True
    for layer in dropped:
        layer.rate = 0
    try:
        yield
    finally:
        for norm, momentum, trainable in kept:
            norm.momentum, norm.trainable = momentum, trainable
        for layer, rate in rates:
            layer.rate = rate


def _inputs(run, images):
    """Inputs of the images that can be predicted: a single NaN would spread to all statistics."""
    errors = []
    for image in images:
        try:
            x, _ = network_input(run, image)
        except DataError as error:
            errors.append(error)
        else:
            yield x
    if len(errors) == len(images):
        raise DataError(*(problem for error in errors for problem in error.problems))
