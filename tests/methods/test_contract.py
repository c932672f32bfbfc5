"""Laws that every method obeys; a method's own file then tests its equations alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km

METHODS = {
    "supervised": lambda network: km.methods.Supervised(network, overlapping=True),
    "kl_style": lambda network: km.methods.KLDistillation(network, overlapping=True),
    "kl_ema": lambda network: km.methods.KLDistillation(network, True, ema=0.9, confidence=0.6),
    "kl_marginal": lambda network: km.methods.KLDistillation(network, True, mode="marginal"),
}


@pytest.fixture(params=METHODS, scope="module")
def make(request):
    def make(precision="float32", seed=0, learning_rate=1e-2):
        with km.setup(precision=precision, seed=seed):
            network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
            method = METHODS[request.param](network)
            method.compile(keras.optimizers.Adam(learning_rate))
        method.total_steps = 8
        return method

    return make


def batch(batches, step=0):
    return next(iter(batches.from_step(step)))


def test_terms_are_finite_scalars_whose_sum_is_the_loss(make, batches):
    terms = make().train_step(batch(batches))
    loss = terms.pop("loss")
    assert all(np.shape(value) == () and np.isfinite(value) for value in terms.values())
    assert float(loss) == pytest.approx(sum(float(v) for v in terms.values()), abs=1e-6)


def test_a_step_moves_every_weight_of_the_network_and_counts(make, batches):
    method = make()
    before = [np.array(w) for w in method.network.trainable_weights]
    method.train_step(batch(batches))
    moved = [
        np.abs(np.array(w) - b).max() > 0
        for w, b in zip(method.network.trainable_weights, before, strict=True)
    ]
    names = [w.path for w in method.network.trainable_weights]
    assert all(moved), [n for n, m in zip(names, moved, strict=True) if not m]
    assert int(method.step) == 1


def test_only_the_network_is_trained(make, batches):
    method = make()
    own = {id(w) for w in method.network.weights}
    others = [w for w in method.weights if id(w) not in own and w is not method.step]
    assert not any(w.trainable for w in others)


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


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_learns_as_full_does(make, batches, precision):
    data = batch(batches)
    full, half = make(), make(precision)
    for _ in range(3):
        a, b = full.train_step(data), half.train_step(data)
    assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=0.05)
    a, b = (
        np.concatenate([np.ravel(w) for w in m.network.trainable_weights]) for m in (full, half)
    )
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a)


def test_keras_fit_trains_it(make, batches):
    method = make()
    history = method.fit(batches.from_step(0), steps_per_epoch=2, epochs=2, verbose=0)
    assert int(method.step) == 4 and np.isfinite(history.history["loss"]).all()
