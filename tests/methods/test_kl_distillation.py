import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda import losses


def sigmoid(z):
    return 1 / (1 + np.exp(-np.array(z)))


def make(**settings):
    with km.setup():
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.KLDistillation(network, overlapping=True, **settings)
        method.compile(keras.optimizers.Adam(1e-3))
    method.total_steps = 10
    return method


def test_equal_inputs_and_a_shared_start_give_no_divergence(batches):
    """The original's bare form: nothing to learn from, which is why the inputs differ."""
    method, data = make(mode="plain"), next(iter(batches.from_step(0)))
    outputs = method.forward(data, training=False)
    assert float(method.losses(data, outputs)["kl"]) == pytest.approx(0.0, abs=1e-7)


def test_a_strong_view_is_taught_by_the_image_as_it_is(batches):
    method, data = make(mode="strong"), next(iter(batches.from_step(0)))

    def divergence():
        return float(method.losses(data, method.forward(data, training=False))["kl"])

    assert divergence() > 0
    data["target"]["strong"] = data["target"]["image"]
    assert divergence() == pytest.approx(0.0, abs=1e-7)


def test_styles_give_a_divergence(batches):
    method, data = make(), next(iter(batches.from_step(0)))
    assert float(method.losses(data, method.forward(data, training=False))["kl"]) > 0


@pytest.mark.parametrize("guard", [False, True])
def test_guarded_domains_are_normalised_apart(batches, guard):
    method, data = make(mode="strong", guard=guard), next(iter(batches.from_step(0)))
    first = method.forward(data, training=True)["source"]
    data["target"] = {name: -3 * view for name, view in data["target"].items()}
    second = method.forward(data, training=True)["source"]
    assert np.allclose(first, second, atol=1e-6) == guard


def test_a_frozen_teacher_stays_and_an_average_follows(batches):
    data = next(iter(batches.from_step(0)))
    for settings, moves in [({}, False), ({"ema": 0.5}, True)]:
        method = make(**settings)
        before = [np.array(w) for w in method.teacher.weights]
        method.train_step(data)
        changed = any(
            np.any(np.array(w) != b) for w, b in zip(method.teacher.weights, before, strict=True)
        )
        assert changed == moves


def test_an_average_with_decay_zero_is_the_student(batches):
    method = make(ema=0.0)
    method.train_step(next(iter(batches.from_step(0))))
    for a, w in zip(method.teacher.weights, method.network.weights, strict=True):
        np.testing.assert_allclose(a, w, atol=1e-7)


def test_the_weight_rises_to_its_end_over_the_ramp(batches):
    method, data = make(weight=3.0, ramp=0.5), next(iter(batches.from_step(0)))
    outputs = method.forward(data, training=False)
    values = []
    for step in (0, 2, 5, 10):
        method.step.assign(step)
        values.append(float(method.losses(data, outputs)["kl"]))
    assert values[0] == pytest.approx(values[2] * np.exp(-5), rel=1e-4)
    assert values[0] < values[1] < values[2] == pytest.approx(values[3])


def test_confidence_one_counts_no_pixel(batches):
    method, data = make(confidence=1.0), next(iter(batches.from_step(0)))
    assert float(method.losses(data, method.forward(data, training=False))["kl"]) == 0.0


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode='stile'.*'style', 'strong', 'marginal' or 'plain'"):
        make(mode="stile")


def test_schedules_need_the_number_of_steps(batches):
    method = make()
    method.total_steps = None
    with pytest.raises(ValueError, match="method.total_steps"):
        method.train_step(next(iter(batches.from_step(0))))


def test_a_target_without_twins_is_named(batches):
    data = next(iter(batches.from_step(0)))
    del data["target"]["style"]
    with pytest.raises(ValueError, match="holds .'image', 'strong'., no style; make it with a"):
        make().forward(data, training=True)


def test_the_teacher_sees_the_style_and_the_student_the_strong_view(batches):
    method, data = make(), next(iter(batches.from_step(0)))
    outputs = method.forward(data, training=False)
    views = {"teacher": (method.teacher, "style"), "target": (method.network, "strong")}
    for name, (network, view) in views.items():
        seen = network(data["target"][view])["logits"]
        np.testing.assert_allclose(outputs[name], seen, atol=1e-5)


def test_the_divergence_has_the_temperature_and_counts_pixels_sure_of_every_class(batches):
    method, data = make(temperature=3.0, confidence=0.7, ramp=0.0), next(iter(batches.from_step(0)))
    rng, names = np.random.default_rng(0), ("source", "target", "teacher")
    outputs = {name: rng.normal(0, 2, (2, 32, 32, 2)).astype("float32") for name in names}
    p = sigmoid(outputs["teacher"])
    sure = (np.maximum(p, 1 - p) >= 0.7).all(axis=-1).astype("float32")
    expected = losses.kl_divergence(outputs["teacher"], outputs["target"], True, 3.0, sure)
    assert float(method.losses(data, outputs)["kl"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_marginal_form_compares_the_source_with_the_target(batches):
    method, data = make(mode="marginal", ramp=0.0), next(iter(batches.from_step(0)))
    outputs = method.forward(data, training=False)
    means = (sigmoid(outputs[name]).mean(axis=(0, 1, 2)) for name in ("source", "target"))
    expected = float(losses.marginal_kl(*means, True))
    found = float(method.losses(data, outputs)["kl"])
    assert found == pytest.approx(expected, rel=1e-3) and expected > 0


def test_an_averaging_teacher_moves_by_its_decay(batches):
    method = make(ema=0.9)
    before = method.teacher.get_weights()
    method.train_step(next(iter(batches.from_step(0))))
    after = method.teacher.get_weights(), method.network.get_weights()
    for b, a, w in zip(before, *after, strict=True):
        np.testing.assert_allclose(a, 0.9 * b + 0.1 * w, atol=1e-6)


def test_what_a_batch_lacks_is_named(batches):
    source = {"source": next(iter(batches.from_step(0)))["source"]}
    with pytest.raises(ValueError, match="KLDistillation: the batch has no target/image; there"):
        make().forward(source, training=False)
