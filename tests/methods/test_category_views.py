"""What each term of UDA_CLR sees, and which way it pulls."""

import numpy as np
import pytest
from keras import ops

from keras_meduda.methods.category_regularization import BEAL, MEAN_TEACHER


def sigmoid(z):
    return 1 / (1 + np.exp(-np.array(z)))


def certain(method, data, **logits):
    """A forward pass in which every pixel is certain and the views have the given logits."""
    outputs = method.forward(data, training=False)
    outputs["deviation"] = ops.zeros_like(outputs["deviation"])
    for view, logit in logits.items():
        outputs[view]["logits"] = ops.full_like(outputs[view]["logits"], logit)
    return outputs


def test_judges_call_the_source_1_and_the_network_wants_its_target_called_so(make, data):
    method = make(**BEAL)
    outputs = method.forward(data, training=False)
    source = method._shown("boundary", outputs["source"])

    def judge(shown):
        """Logits of one that is right: 4 for the source, −4 for the target."""
        return ops.where(ops.all(shown == source), 4.0, -4.0) * ops.ones((2, 1, 1, 1))

    method.discriminators, method.adversarial = {"boundary": judge}, {"boundary": 1.0}
    right, wrong = np.log1p(np.exp([-4, 4]))
    found = float(method.discriminator_losses(data, outputs)["discriminator_boundary"])
    assert found == pytest.approx(2 * right, rel=1e-4)
    found = float(method.losses(data, outputs)["adversarial_boundary"])
    assert found == pytest.approx(wrong, rel=1e-4)


def test_discriminators_are_shown_entropy_and_probability(make, data):
    method = make(**BEAL)
    outputs = method.forward(data, training=False)["source"]
    p = sigmoid(outputs["logits"])
    shown = {name: method._shown(name, outputs) for name in ("entropy", "boundary")}
    np.testing.assert_allclose(shown["entropy"], -p * np.log(p + 1e-7), atol=1e-5)
    np.testing.assert_allclose(shown["boundary"], sigmoid(outputs["boundary"]), atol=1e-5)


def test_the_strong_view_learns_what_the_plain_one_says(make, data):
    method = make(warm_up=0.0)
    found = float(method.losses(data, certain(method, data, target=3, strong=-2))["consistency"])
    assert found == pytest.approx(np.log1p(np.exp(2)), rel=1e-5)  # pseudo-label 1, logit −2


@pytest.mark.parametrize(("step", "label"), [(0, 1), (50, 0)])
def test_the_threshold_rises_with_the_training(make, data, step, label):
    method, z = make(warm_up=0.0), np.log(0.65 / 0.35)  # 0.59 < 0.65 < 0.76
    method.step.assign(step)
    found = float(method.losses(data, certain(method, data, target=z, strong=z))["consistency"])
    assert found == pytest.approx(np.log1p(np.exp(z)) - label * z, rel=1e-5)


def test_prototypes_of_the_target_are_its_own(make, data):
    method, source = make(dropout=0.0), data["source"]
    method.network.get_layer("head").get_layer("classifier").bias.assign([2.0, 2.0])

    def prototypes(image):
        batch = {**data, "source": {**source, "image": image}}
        return np.array(method.forward(batch, training=False)["target_prototypes"])

    found = prototypes(source["image"])
    assert found.any()
    np.testing.assert_array_equal(prototypes(source["image"] + 0.5), found)


def test_prototypes_of_the_target_are_of_certain_pixels(make, data):
    few, every = (
        make(dropout=0.5, certainty=certainty).forward(data, training=False)["target_prototypes"]
        for certainty in (1e-9, 1.0)
    )
    assert not np.allclose(few, every, atol=1e-3)


def test_the_mean_teacher_sees_noise(make, data):
    method = make(dropout=0.0, **MEAN_TEACHER)
    assert float(method.losses(data, method.forward(data, training=False))["mean_teacher"]) > 0


def test_the_mean_teachers_decay_ends_at_0_99(make):
    method = make(**MEAN_TEACHER)
    before = method.teacher.get_weights()
    method.network.set_weights([w + 1 for w in method.network.get_weights()])
    method.step.assign(1000)
    method.after_step()
    for after, weight in zip(method.teacher.get_weights(), before, strict=True):
        np.testing.assert_allclose(after, weight + 0.01, atol=1e-4)
