"""Laws that every method obeys; a method's own file then tests its equations alone."""

import dataclasses
import inspect
import json
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.methods.category_regularization import MEAN_TEACHER, CategoryRegularization
from keras_meduda.run.folder import Best, RunFolder

METHODS = {
    "supervised": lambda network: km.methods.Supervised(network, overlapping=True),
    "kl_style": lambda network: km.methods.KLDistillation(network, overlapping=True),
    "kl_ema": lambda network: km.methods.KLDistillation(network, True, ema=0.9, confidence=0.6),
    "kl_marginal": lambda network: km.methods.KLDistillation(network, True, mode="marginal"),
    "foundation": lambda network: km.methods.FoundationDistillation(network, teacher_channels=5),
    "masked": lambda network: km.methods.MaskedConsistency(network, overlapping=True),
}
TWO_PARTS = {  # whose network has an encoder, a head and a boundary
    "category": lambda network: CategoryRegularization(network, True, warm_up=0.0, passes=2),
    "category_mean_teacher": lambda network: CategoryRegularization(network, True, **MEAN_TEACHER),
}


@pytest.fixture(params=[*METHODS, *TWO_PARTS], scope="module")
def make(request, two_part_network):
    def make(precision="float32", seed=0, learning_rate=1e-2):
        with km.setup(precision=precision, seed=seed):
            if request.param in TWO_PARTS:
                method = TWO_PARTS[request.param](two_part_network())
            else:
                network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
                method = METHODS[request.param](network)
            judges = keras.optimizers.SGD(1e-3, momentum=0.9)
            method.compile(keras.optimizers.Adam(learning_rate), judges)
        method.total_steps = 8
        return method

    return make


@pytest.fixture(scope="module")
def batches(batches):
    return dataclasses.replace(batches, boundary=True)


def taught(data):
    """A batch in which a teacher has seen the target."""
    image = data["target"]["image"]
    coarse = tf.image.resize(image, (8, 8))
    teacher = {
        "teacher": tf.sigmoid(image[..., :2]),
        "teacher_variance": tf.fill(tf.shape(image)[:1], 0.1),
        "teacher_features": tf.concat([coarse, tf.sin(coarse[..., :2])], axis=-1),
    }
    return {**data, "target": {**data["target"], **teacher}}


def everything(method):
    """All that training changes: of the method, of its optimiser and of the discriminators'."""
    judges = method.discriminator_optimizer.variables if method.discriminator_variables else []
    return [*method.variables, *method.optimizer.variables, *judges]


def batch(batches, step=0):
    return taught(next(iter(batches.from_step(step))))


def test_terms_are_finite_scalars_whose_sum_is_the_loss(make, batches):
    method, data = make(), batch(batches)
    names = method.losses(data, method.forward(data, training=False))
    values = method.train_step(data)
    assert all(np.shape(value) == () and np.isfinite(value) for value in values.values())
    assert float(values["loss"]) == pytest.approx(sum(float(values[n]) for n in names), abs=1e-6)


def test_a_step_moves_every_trained_weight_and_counts(make, batches):
    method = make()
    before = [np.array(w) for w in method.trained_variables]
    method.train_step(batch(batches))
    moved = [
        np.abs(np.array(w) - b).max() > 0
        for w, b in zip(method.trained_variables, before, strict=True)
    ]
    names = [w.path for w in method.trained_variables]
    assert all(moved), [n for n, m in zip(names, moved, strict=True) if not m]
    assert int(method.step) == 1


def test_what_is_trainable_is_the_network_or_trained_beside_it(make, batches):
    method = make()
    trained = {id(w) for w in method.trained_variables}
    assert {id(w) for w in method.network.trainable_weights} <= trained
    trained |= {id(w) for w in method.discriminator_variables}
    assert {id(w) for w in method.trainable_weights} == trained


def test_a_setting_is_noted_by_its_value_whatever_its_type():
    network = km.models.AERUNet((16, 16, 3), channels=2, filters=(4, 8))
    loss = partial(km.losses.focal_loss, gamma=np.float32(1.5))
    method = km.methods.Supervised(network, np.bool_(True), loss=loss)
    assert method.settings["overlapping"] is True
    assert method.settings["loss"] == ["focal_loss", [], {"gamma": 1.5}]


def test_settings_hold_every_argument(make):
    method = make()
    names = set(inspect.signature(type(method).__init__).parameters)
    assert set(method.settings) == names - {"self", "network", "kwargs"}
    assert json.loads(json.dumps(method.settings)) is not None


def test_the_loss_falls_on_one_batch(make, batches):
    method, data = make(), batch(batches)
    step = tf.function(method.train_step)
    losses = [float(step(data)["segmentation"]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_call_gives_the_networks_logits(make, batches):
    method, image = make(), batch(batches)["source"]["image"]
    np.testing.assert_array_equal(method(image), method.network(image)["logits"])


def test_evaluation_changes_nothing(make, batches):
    method = make()
    before = [np.array(w) for w in method.weights]
    method.test_step(batch(batches))
    for w, b in zip(method.weights, before, strict=True):
        np.testing.assert_array_equal(w, b)


def test_half_precision_learns_as_full_does(make, batches):
    data = batch(batches)
    full, half = make(), make("mixed_float16")
    for _ in range(3):
        a, b = full.train_step(data), half.train_step(data)
    assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=0.05)
    a, b = (
        np.concatenate([np.ravel(w) for w in m.network.trainable_weights]) for m in (full, half)
    )
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.slow
def test_a_checkpoint_holds_everything_that_training_changes(make, batches, tmp_path, precision):
    whole, resumed = make(precision), make(precision, seed=1)
    whole.build()
    whole.train_step(batch(batches, 0))
    folder = RunFolder(tmp_path, resume=True)
    folder.save(whole, Best(0.5, waited=3))
    whole.train_step(batch(batches, 1))

    resumed.build()
    assert folder.restore(resumed) == (1, Best(0.5, waited=3))
    resumed.train_step(batch(batches, 1))
    for a, b in zip(everything(whole), everything(resumed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_keras_fit_trains_it(make, batches):
    method = make()
    data = batches.from_step(0).map(taught)
    history = method.fit(data, steps_per_epoch=2, epochs=2, verbose=0)
    assert int(method.step) == 4 and np.isfinite(history.history["loss"]).all()
