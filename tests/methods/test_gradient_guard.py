"""The gradient guard: what of a target's gradient is let through."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_meduda as km
from keras_meduda.methods.base import Method, guarded_gradient


def guarded(source, target):
    """The target's share of the step, and the cosine."""
    parts = [[ops.convert_to_tensor(g, "float32") for g in part] for part in (source, target)]
    gradients, cosine = guarded_gradient(*parts)
    return [np.subtract(g, s) for g, s in zip(gradients, source, strict=True)], float(cosine)


def test_an_aligned_gradient_passes_whole():
    source, target = [[1.0, 2.0], [3.0]], [[2.0, 4.0], [6.0]]
    passed, cosine = guarded(source, target)
    assert cosine == pytest.approx(1)
    for p, t in zip(passed, target, strict=True):
        np.testing.assert_allclose(p, t, rtol=1e-5)


def test_an_opposing_gradient_is_removed():
    source = [[1.0, 2.0], [3.0]]
    passed, cosine = guarded(source, [[-2.0, -4.0], [-6.0]])
    assert cosine == pytest.approx(-1)
    for p in passed:
        np.testing.assert_allclose(p, 0, atol=1e-5)


def test_an_orthogonal_gradient_keeps_its_direction_and_a_quarter_of_its_length():
    passed, cosine = guarded([[1.0, 0.0]], [[0.0, 4.0]])
    assert cosine == 0
    np.testing.assert_allclose(passed[0], [0.0, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_what_passes_never_points_against_the_source(seed):
    rng = np.random.default_rng(seed)
    source, target = ([rng.normal(size=n) for n in (7, 3)] for _ in range(2))
    passed, cosine = guarded(source, target)
    product = sum((p * s).sum() for p, s in zip(passed, source, strict=True))
    assert product >= -1e-5
    length = [np.sqrt(sum((x**2).sum() for x in g)) for g in (source, target, passed)]
    assert length[2] <= ((1 + cosine) / 2) ** 2 * length[1] + 1e-5


def test_one_part_may_be_zero_and_an_overflow_is_seen():
    passed, cosine = guarded([[0.0, 0.0]], [[0.0, 4.0]])
    assert cosine == 0 and np.isfinite(passed[0]).all()
    gradients, cosine = guarded_gradient([ops.array([np.inf, 1.0])], [ops.array([1.0, 1.0])])
    assert float(cosine) == 0 and not np.isfinite(gradients[0]).all()  # so that it is skipped


class Pulls(Method):
    """Terms whose gradients are known: the source pulls a bias up, the target elsewhere."""

    guarded = ("target",)

    def forward(self, batch, training):
        return self.network(batch["source"]["image"], training=training)["logits"]

    def losses(self, batch, outputs):
        mean = ops.mean(outputs, axis=(0, 1, 2))
        return {"source": -mean[0], "target": mean[0] - 2.0 * mean[1]}


def pulls(precision="float32"):
    with km.setup(precision=precision):
        image = keras.Input((4, 4, 1), name="image")
        logits = keras.layers.Conv2D(2, 1, dtype="float32", kernel_initializer="zeros")(image)
        method = Pulls(keras.Model(image, {"logits": logits, "features": logits}))
        method.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        method.build()
    return method


def batch(count=2):
    return {"source": {"image": np.zeros((count, 4, 4, 1), "float32")}}


# ⟨(−1, 0), (1, −2)⟩ = −1, so that (0, −2) is left of the target's, its scale ((1 − 1/√5)/2)²
COSINE = -1 / np.sqrt(5)
BIAS = [1.0, 2.0 * ((1 + COSINE) / 2) ** 2]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_step_is_that_of_the_equation_whatever_the_loss_is_scaled_by(precision):
    method = pulls(precision)
    terms = method.train_step(batch())
    assert float(terms["cosine"]) == pytest.approx(COSINE, abs=1e-4)
    np.testing.assert_allclose(method.network.weights[1], BIAS, rtol=1e-3)


def test_a_guarded_term_that_is_not_there_is_named():
    method = pulls()
    method.guarded = ("consistency",)
    with pytest.raises(ValueError, match=r"Pulls: guarded terms \['consistency'\]; there are"):
        method.train_step(batch())


def test_a_method_without_guarded_terms_logs_no_cosine(batches):
    network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
    method = km.methods.Supervised(network, overlapping=True)
    method.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    assert "cosine" not in method.train_step(next(iter(batches.from_step(0))))
