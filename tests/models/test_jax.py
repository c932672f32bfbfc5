"""Every network gives the same on TensorFlow and on JAX, and so do its gradients."""

import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.models.torch_weights import expected_shapes, load_torch_weights
from keras_meduda.run.sliding import SlidingWindow

CONTRACT = runpy.run_path(str(Path(__file__).with_name("test_contract.py")))
NETWORKS, CHANNELS = CONTRACT["NETWORKS"], CONTRACT["CHANNELS"]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
WINDOW = SlidingWindow((8, 12), gaussian=True)
CODE = f"""
import pickle, sys
from pathlib import Path

import jax, keras, numpy as np
from keras import ops
from keras_meduda.run.sliding import SlidingWindow
from keras_meduda.run.sliding_graph import sliding_window_graph

folder = Path(sys.argv[1])
for name, (build, shape) in pickle.loads((folder / "networks.pickle").read_bytes()).items():
    network = build(shape, {CHANNELS})
    network.set_weights(keras.saving.load_model(folder / (name + ".keras")).get_weights())
    image = np.load(folder / (name + "-image.npy"))

    def mean(trained):
        others = [v.value for v in network.non_trainable_variables]
        outputs, _ = network.stateless_call(trained, others, image, training=False)
        return ops.mean(ops.sin(outputs["logits"])), outputs

    there_and_back = jax.jit(jax.value_and_grad(mean, has_aux=True))  # op by op takes minutes
    (_, outputs), gradients = there_and_back([v.value for v in network.trainable_variables])
    np.savez(folder / (name + "-jax.npz"), **outputs)
    np.savez(folder / (name + "-gradients.npz"), *gradients)
x = np.load(folder / "x.npy")
np.save(folder / "windows.npy", np.array(sliding_window_graph(keras.ops.sin, x, {WINDOW!r})))
assert keras.backend.backend() == "jax"
"""


@pytest.fixture(scope="module")
def on_tensorflow(fill, tmp_path_factory):
    """What each network gives here, and the folder with what JAX makes of the same weights."""
    folder, here = tmp_path_factory.mktemp("networks"), {}
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(2, 17, 30, 3)))
    (folder / "networks.pickle").write_bytes(pickle.dumps(NETWORKS))
    for name, (build, shape) in NETWORKS.items():
        network = build(shape, CHANNELS)
        load_torch_weights(network, fill(expected_shapes(network)))
        network.save(folder / f"{name}.keras")
        image = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        np.save(folder / f"{name}-image.npy", image)
        with tf.GradientTape() as tape:
            outputs = network(image, training=False)
            mean = tf.reduce_mean(tf.sin(outputs["logits"]))
        weights = [w.value for w in network.trainable_weights]
        gradients = tape.gradient(mean, weights, tf.ones([]), tf.UnconnectedGradients.ZERO)
        here[name] = dict(outputs), np.concatenate([np.ravel(g) for g in gradients])
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return here, folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_jax_gives_what_tensorflow_gives(on_tensorflow, name):
    here, folder = on_tensorflow
    with np.load(folder / f"{name}-jax.npz") as received:
        assert set(received.files) == set(here[name][0])
        for key, y in here[name][0].items():
            scale = np.abs(y).max()
            np.testing.assert_allclose(received[key] / scale, y / scale, atol=1e-4, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_jax_goes_back_as_tensorflow_does(on_tensorflow, name):
    here, folder = on_tensorflow
    with np.load(folder / f"{name}-gradients.npz") as received:
        gradients = np.concatenate([received[key].ravel() for key in received.files])
    wrong = np.linalg.norm(gradients - here[name][1]) / np.linalg.norm(here[name][1])
    assert wrong < 5e-3  # not less: rounding puts single values on the other side of a ReLU's kink


@pytest.mark.slow
def test_windows_too(on_tensorflow):
    _, folder = on_tensorflow
    received, x = np.load(folder / "windows.npy"), np.load(folder / "x.npy")
    np.testing.assert_allclose(received, np.sin(x), atol=1e-4)
