"""PyTorch's updates, written out, are what the optimisers do."""

import keras
import numpy as np
import pytest

from keras_meduda.experiment.bscans import published
from keras_meduda.optimizers import AdamWithL2, SGDWithL2

L2 = 0.05


def after(optimizer, gradients, start=2.0):
    """Values of a weight after each of the gradients."""
    weight = keras.Variable(np.full(3, start, "float32"))
    optimizer.build([weight])
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.full((3,), gradient)], [weight])
        values.append(float(weight[0]))
    return values


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * 0.5 ** keras.ops.cast(step, "float32")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_pytorchs_while_the_rate_changes(momentum):
    p, v, expected, gradients = 2.0, 0.0, [], [1.0, -0.5, 0.3, 0.8]
    for step, g in enumerate(gradients):
        v = momentum * v + g + L2 * p
        p -= 0.1 * 0.5**step * v
        expected.append(p)
    received = after(SGDWithL2(Halving(), momentum, l2=L2), gradients)
    np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_adam_has_l2_in_the_gradient():
    p, m, v, expected, gradients = 2.0, 0.0, 0.0, [], [1.0, -0.5, 0.3]
    for step, gradient in enumerate(gradients, 1):
        g = gradient + L2 * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= 0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)) ** 0.5 + 1e-8)
        expected.append(p)
    received = after(AdamWithL2(0.01, l2=L2), gradients)
    np.testing.assert_allclose(received, expected, rtol=1e-5)


@pytest.mark.parametrize("make", [SGDWithL2, AdamWithL2])
def test_the_configuration_is_saved(make):
    optimizer = make(0.02, l2=L2)
    again = make.from_config(optimizer.get_config())
    assert again.l2 == L2
    assert after(again, [1.0, 0.4]) == after(make(0.02, l2=L2), [1.0, 0.4])


def test_another_momentum_is_refused():
    with pytest.raises(ValueError, match="received nesterov=True; expected plain"):
        SGDWithL2(momentum=0.9, nesterov=True)


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.01), (99, 0.0099779450), (399, 0.0099110783)])
def test_the_published_plan_has_the_rates_that_mmsegmentation_logs(steps, rate):
    optimizer = published(512, "psp")["optimizer"](400)
    optimizer.iterations.assign(steps)
    assert float(optimizer.learning_rate) == pytest.approx(rate, abs=2e-9)
    assert optimizer.momentum == 0.9
