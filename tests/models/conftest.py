"""Deterministic weights and inputs, so that one printed number proves a network equal to its
original in PyTorch."""

import zlib

import numpy as np
import pytest

from keras_meduda.models.torch_weights import expected_shapes, load_torch_weights


@pytest.fixture(scope="session")
def fill():
    """`fill({key: torch shape}) -> {key: float32 array}`; a tensor depends on its key alone."""
    return lambda shapes: {key: _tensor(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def parity_input():
    """`parity_input((n, c, *spatial)) -> (n, *spatial, c)`, sin(0.013 k) in PyTorch's order."""
    def build(shape):
        x = np.sin(0.013 * np.arange(np.prod(shape), dtype="float64")).reshape(shape)
        return np.moveaxis(x, 1, -1).astype("float32")
    return build


@pytest.fixture(scope="session")
def filled_outputs(fill, parity_input):
    """`filled_outputs(network, (n, c, *spatial)) -> {name: (n, c, *spatial)}`: outputs of the
    network with filled weights, in PyTorch's order and in float64, so that sums are exact."""
    def run(network, shape):
        load_torch_weights(network, fill(expected_shapes(network)))
        outputs = network(parity_input(shape), training=False)
        return {name: np.moveaxis(np.asarray(y, "float64"), -1, 1) for name, y in outputs.items()}
    return run


def _tensor(key, shape):
    phase = zlib.crc32(key.encode()) % 1000 / 100
    b = np.sin(0.37 * np.arange(np.prod(shape), dtype="float64") + phase).reshape(shape)
    if key.endswith("running_var"):
        b = 1 + 0.5 * b
    elif key.endswith("running_mean"):
        b = 0.1 * b
    elif len(shape) >= 2:
        b = b * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        b = 1 + 0.1 * b
    else:
        b = 0.05 * b
    return b.astype("float32")
