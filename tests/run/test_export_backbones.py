"""What is exported of a network with a backbone gives what is predicted, and both see its range."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from skimage.data import astronaut

import keras_meduda as km
from keras_meduda.data.serving import resize
from keras_meduda.models.encoders import BACKBONES
from keras_meduda.models.stages import leaves
from keras_meduda.run import Run
from keras_meduda.run.exchange import export_network, parity

RUNTIMES = {".onnx": ("tf2onnx", "onnxruntime"), ".tflite": ("ai_edge_litert",)}
NETWORKS = {  # an encoder at a time, then each other decoder with one
    name: partial(km.models.UNet, filters=(4, 4, 4, 4), backbone=name) for name in BACKBONES
} | {
    "AERUNet": partial(km.models.AERUNet, filters=(4, 4), backbone="mobilenetv2"),
    "UNetPlusPlus": partial(km.models.UNetPlusPlus, filters=(4, 4), backbone="mobilenetv2"),
    "DeepLabV3Plus": km.models.DeepLabV3Plus,
    "DeepLabV3Plus, whose picture is padded": partial(
        km.models.DeepLabV3Plus, backbone="efficientnetv2b0"
    ),
}
SLOW = [pytest.param(n, marks=pytest.mark.slow if n != "mobilenetv2" else ()) for n in NETWORKS]


@pytest.fixture(scope="module", params=SLOW)
def run(request, tmp_path_factory):
    network = NETWORKS[request.param]((32, 32, 3), 2)
    rng = np.random.default_rng(0)
    for layer in leaves(network):  # statistics and scales as if trained
        if type(layer).__name__ in ("BatchNormalization", "LayerScale"):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    task, settings = km.Task(("a", "b"), overlapping=True), km.Preprocessing((32, 32))
    return Run(tmp_path_factory.mktemp("run"), network, task, settings)


def test_a_saved_model(run, tmp_path):
    image = astronaut()[:50, :40]
    exported = tf.saved_model.load(str(km.export(run, tmp_path / "1")))
    served = exported.signatures["serving_default"](image=tf.constant(image[None]))
    predicted = km.predict(run, image)
    for i, name in enumerate(run.task.classes):
        np.testing.assert_allclose(served[name][0], predicted[..., i], atol=1e-4)
    inside = resize(run.probabilities(run.preprocessing.apply(image)[None]), image.shape[:2])[0]
    np.testing.assert_allclose(predicted, inside, atol=1e-5)


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_file_for_another_runtime(suffix, run, tmp_path):
    for module in RUNTIMES[suffix]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    assert parity(run, export_network(run, tmp_path / f"network{suffix}")) < 1e-4


def test_a_kept_run_predicts_the_same(run, tmp_path):
    run.network.save(tmp_path / "network.keras")
    x = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype("float32")
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(again(x)["logits"], run.network(x)["logits"], atol=1e-4)
