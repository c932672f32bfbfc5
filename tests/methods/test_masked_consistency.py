import keras
import numpy as np
import pytest
from keras import ops

import keras_meduda as km


def make(shape=(16, 16, 1), channels=2, overlapping=True, total_steps=100, **settings):
    with km.setup():
        network = km.models.AERUNet(shape, channels, filters=(4, 8))
        method = km.methods.MaskedConsistency(network, overlapping, **settings)
        method.compile(keras.optimizers.SGD(0.1))
    method.total_steps = total_steps
    method.step.assign(total_steps)  # at the top of the ramp
    return method


def masked(method, teacher, student):
    """The term for logits, `(batch, *spatial, channels)`."""
    mask = np.zeros(np.shape(teacher), "float32")
    mask[..., 0] = 1
    outputs = {"source": mask, "target": student, "teacher": teacher}
    return float(method.losses({"source": {"mask": mask}}, outputs)["masked"])


def normal(*shape, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("size", [(32, 40), (11, 21), (16, 9, 24)])
def test_about_half_of_the_blocks_are_blank_and_the_others_as_they_were(size):
    image = normal(6, *size, 2)
    seen = np.array(make().blanked(image))
    means = image.mean(tuple(range(1, len(size) + 1)), keepdims=True)
    kept = np.isclose(seen, image).all(-1)
    np.testing.assert_allclose(seen[~kept], np.broadcast_to(means, image.shape)[~kept], atol=1e-5)
    assert 0.4 < kept.mean() < 0.6
    for axis, n in enumerate(size, 1):  # what is of one block along an axis has one fate
        for pixels in np.split(np.arange(n), np.flatnonzero(np.diff(np.arange(n) * 8 // n)) + 1):
            rows = kept.take(pixels, axis)
            np.testing.assert_array_equal(rows, np.repeat(rows.take([0], axis), len(pixels), axis))


def test_blocks_are_drawn_anew_in_every_step():
    method, image = make(), normal(2, 32, 32, 1)
    assert not np.array_equal(method.blanked(image), method.blanked(image))


def test_a_sure_teacher_is_learnt_by_cross_entropy():
    """Where nothing is undecided all classes weigh the same."""
    student, sides = normal(2, 8, 8, 2), normal(2, 8, 8, 2, seed=1) > 0
    p = 1 / (1 + np.exp(-student))
    expected = -np.log(np.where(sides, p, 1 - p)).mean()
    assert masked(make(), np.where(sides, 9, -9), student) == pytest.approx(expected, rel=1e-4)


def test_what_the_teacher_is_not_sure_of_does_not_count():
    teacher, student = np.full((1, 8, 8, 2), 1.0, "float32"), normal(1, 8, 8, 2)  # p = 0.731
    assert masked(make(confidence=0.75), teacher, student) == 0
    assert masked(make(confidence=0.7), teacher, student) > 0
    teacher[0, 0, 0, 0] = 1.2  # p = 0.769
    expected = np.log1p(np.exp(-student[0, 0, 0, 0])) / teacher.size
    assert masked(make(), teacher, student) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("sure", "unsure", "weight"), [(1.2, 2.0, None), (2.9, 0.4, 5.0)])
def test_the_class_that_is_harder_weighs_more(sure, unsure, weight):
    """Background decided with the logit −sure, a class with `unsure`: by the ratio of −log p."""
    teacher = np.full((1, 4, 4, 1), -sure, "float32")
    teacher[:, :2] = unsure
    hard = np.log1p(np.exp(-np.array([unsure, sure])))
    weight = weight or hard[0] / hard[1]
    assert hard[0] / hard[1] == pytest.approx(weight) or hard[0] / hard[1] > 5
    method = make(channels=1, confidence=0.5)
    expected = np.log(2) * (weight + 1) / 2
    assert masked(method, teacher, np.zeros_like(teacher)) == pytest.approx(expected, rel=1e-4)


def test_one_class_is_the_same_overlapping_or_against_its_background():
    teacher, student = normal(2, 8, 8, 1), normal(2, 8, 8, 1, seed=1)
    two = [np.concatenate([0 * z, z], axis=-1) for z in (teacher, student)]
    overlapping = masked(make(channels=1), teacher, student)
    exclusive = masked(make(overlapping=False), *two)
    assert overlapping == pytest.approx(exclusive, rel=1e-4) and overlapping > 0


def test_the_weight_rises():
    teacher, student = normal(1, 8, 8, 2), normal(1, 8, 8, 2, seed=1)
    method = make(weight=2.0)
    late = masked(method, teacher, student)
    method.step.assign(0)
    assert masked(method, teacher, student) == pytest.approx(late * np.exp(-5), rel=1e-4)
    assert late == pytest.approx(2 * masked(make(), teacher, student), rel=1e-5)


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("shape", [(16, 16, 1), (8, 8, 8, 1)])
def test_the_teacher_follows_and_sees_the_whole_image(shape, overlapping):
    method, image = make(shape, overlapping=overlapping, ema=0.9), normal(2, *shape)
    mask = np.array(ops.one_hot(np.uint8(normal(2, *shape)[..., 0] > 0), 2))
    batch = {"source": {"image": image, "mask": mask}, "target": {"image": image, "strong": image}}
    teacher = np.array(method.forward(batch, training=True)["teacher"])
    np.testing.assert_allclose(teacher, method.teacher(image)["logits"], rtol=1e-5)
    before = method.teacher.get_weights()
    terms = method.train_step(batch)
    assert all(np.isfinite(float(value)) for value in terms.values())
    after = method.teacher.get_weights(), method.network.get_weights()
    for b, a, w in zip(before, *after, strict=True):
        np.testing.assert_allclose(a, 0.9 * b + 0.1 * w, atol=1e-6)


@pytest.mark.parametrize("bad", [{"confidence": 75}, {"ema": -0.1}, {"weight": -1}, {"blocks": 0}])
def test_settings_that_mean_nothing_are_refused(bad):
    (name, value), *_ = bad.items()
    with pytest.raises(ValueError, match=f"MaskedConsistency: .*{name}.*{value}"):
        make(**bad)
