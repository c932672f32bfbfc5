"""Benchmarks on JAX: the same augmentation, batches and steps as on TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.data import augment
from keras_meduda.data.boundary import boundary_target
from keras_meduda.methods.category_regularization import BEAL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SETTINGS = {"supervised": {}, "kl": {"ema": 0.9, "ramp": 0.0}, "beal": BEAL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What JAX made of the same images, draws, weights and batch, in npz files."""
    folder = tmp_path_factory.mktemp("jax")
    np.savez(folder / "drawn.npz", **drawn())
    np.savez(folder / "batch.npz", **batch())
    for name in SETTINGS:
        network_of(name).save_weights(folder / f"{name}.weights.h5")
    parts = ("benchmarks/on_jax", "benchmarks", ".", "tests")
    path = os.pathsep.join(str(ROOT / part) for part in parts)
    environment = {
        **os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=2",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("on_jax.py"), folder],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
    return folder


def drawn():
    """An image, a mask, and draws that TensorFlow made."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 48, 3)).astype("float32")
    place = np.hypot(*np.mgrid[-20:20, -24:24])
    mask = np.stack([place < 8, place < 15], -1).astype("float32")
    move = augment.Geometry(rotation=30.0, shift=0.3).sample((1, 2), 40, 48)
    deformation = augment.Deformation(probability=1.0).sample((3, 4), 40, 48)
    colours = augment.Photometry(noise=0.0, hue=0.3, probability=1.0).sample((5, 6))
    spoilt = augment.Degradation(speckle=0.0, probability=1.0).sample((7, 8))
    nested = {"bold": deformation, "colours": colours, "spoilt": spoilt}
    flat = {f"{name}.{k}": np.asarray(v) for name, draw in nested.items() for k, v in draw.items()}
    return {"image": image, "mask": mask, "move": np.asarray(move), **flat}


def augmented(draws):
    """Every change of a picture, by name; of TensorFlow, or of what stands in for it."""
    parts = {"bold": {}, "colours": {}, "spoilt": {}}
    for name, value in draws.items():
        if "." in name:
            part, key = name.split(".")
            parts[part][key] = value
    image, mask = draws["image"], draws["mask"]
    geometry, bold = augment.Geometry(), augment.Deformation()
    return {
        "geometry": geometry.apply(image, draws["move"]),
        "labels": geometry.apply(mask.astype("uint8"), draws["move"], nearest=True),
        "deformation": bold.apply(image, parts["bold"]),
        "photometry": augment.recolour(image, parts["colours"]),
        "degradation": augment.degrade(image, parts["spoilt"]),
        "boundary": boundary_target(mask),
    }


def batch():
    """Source and target of eight images each, flat."""
    rng = np.random.default_rng(1)
    images = {f"target/{k}": rng.random((8, 32, 32, 3)) for k in ("image", "strong", "style")}
    images["source/image"] = rng.random((8, 32, 32, 3))
    images["source/boundary"] = rng.random((8, 32, 32, 1))
    images["source/mask"] = rng.random((8, 32, 32, 2)) > 0.5
    return {name: x.astype("float32") for name, x in images.items()}


def network_of(name):
    """A network without randomness in its passes."""
    keras.utils.set_random_seed(0)
    if name != "beal":
        return km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
    network = km.models.DeepLabV3Plus((32, 32, 3), channels=2)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return network


def method_of(name, folder):
    """A compiled method around the network of the folder."""
    network = network_of(name)
    network.load_weights(folder / f"{name}.weights.h5")
    kinds = {"supervised": km.methods.Supervised, "kl": km.methods.KLDistillation}
    kind = kinds.get(name, km.methods.CategoryRegularization)
    method = kind(network, True, **SETTINGS[name])
    adam = keras.optimizers.Adam(1e-3, epsilon=1e-3)  # else gradients near 0 decide by their sign
    method.compile(adam, discriminator_optimizer=km.optimizers.SGDWithL2(1e-3, l2=5e-4))
    return method


@pytest.mark.parametrize(
    "name", ["geometry", "labels", "deformation", "photometry", "degradation", "boundary"]
)
def test_an_augmentation_is_that_of_tensorflow(folder, name):
    expected = np.asarray(augmented(drawn())[name])
    with np.load(folder / "augmented.npz") as received:
        limit = 1.001 / 255 if name == "boundary" else 0.0 if name == "labels" else 2e-2
        np.testing.assert_allclose(received[name], expected, atol=limit)
        assert np.ptp(expected) > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_two_steps_are_those_of_tensorflow(folder, name):
    method, halves = method_of(name, folder), {}
    if name == "beal":
        with np.load(folder / "beal-judges.npz") as judges:
            values = [judges[k] for k in sorted(judges, key=int)]
        for variable, value in zip(method.discriminator_variables, values, strict=True):
            variable.assign(value)
    for key, value in batch().items():
        half, view = key.split("/")
        halves.setdefault(half, {})[view] = tf.constant(value)
    method.total_steps = 10
    method.build()
    update = tf.function(method.train_step)
    for step in range(2):
        terms = {k: float(v) for k, v in update(halves).items()}
        with np.load(folder / f"{name}-{step}.npz") as received:
            assert set(received) == set(terms)
            for term, value in terms.items():
                # batch norm over a few values makes much of the last bits of the first update
                assert float(received[term]) == pytest.approx(value, rel=(1e-4, 1e-2)[step]), term
