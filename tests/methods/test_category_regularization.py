from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_meduda as km
from keras_meduda import losses
from keras_meduda.methods.category_regularization import (
    BEAL,
    MEAN_TEACHER,
    POSAL,
    SOURCE_ONLY,
)

REGULARISED = ("alignment", "discriminative", "consistency")


def values(method, data):
    terms = method.losses(data, method.forward(data, training=False))
    return {name: float(value) for name, value in terms.items()}


def weights(model):
    return [np.array(w) for w in model.weights]


def equal(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("preset", "names", "judges"),
    [
        (SOURCE_ONLY, {"segmentation", "boundary"}, set()),
        (
            BEAL,
            {"segmentation", "boundary", "adversarial_entropy", "adversarial_boundary"},
            {"entropy", "boundary"},
        ),
        (POSAL, {"segmentation", "boundary", "adversarial_boundary"}, {"boundary"}),
        (MEAN_TEACHER, {"segmentation", "boundary", "mean_teacher"}, set()),
    ],
    ids=["source_only", "beal", "posal", "mean_teacher"],
)
def test_a_preset_has_its_terms_and_no_others(make, data, preset, names, judges):
    method = make(**preset)
    assert set(values(method, data)) == names
    assert set(method.discriminators) == judges
    assert hasattr(method, "stochastic_head") is False


def test_source_only_needs_no_target(make, data):
    method = make(**SOURCE_ONLY)
    assert np.isfinite(float(method.train_step({"source": data["source"]})["loss"]))


def test_the_regularisation_begins_after_the_warm_up(make, data):
    method = make(warm_up=0.05, certainty=1.0)
    method.train_step(data)  # so that there are prototypes of pixels above the pseudo-label's 0.75
    during = values(method, data)
    assert all(during[name] == 0.0 for name in REGULARISED)
    method.step.assign(5)
    after = values(method, data)
    assert all(after[name] > 0 for name in REGULARISED)
    for name in set(during) - set(REGULARISED):
        assert after[name] == pytest.approx(during[name])


def test_each_term_has_its_weight(make, data):
    single, double = make(warm_up=0.0, dropout=0.0), make(
        warm_up=0.0, dropout=0.0, boundary=2.0, adversarial_entropy=0.02, adversarial_boundary=0.02,
        alignment=0.2, discriminative=0.2, consistency=2.0)  # fmt: skip
    a, b = values(single, data), values(double, data)
    for name in set(a) - {"segmentation"}:
        assert b[name] == pytest.approx(2 * a[name], rel=1e-4), name


@pytest.mark.parametrize("logit", [-0.3, 0.3])
def test_balanced_leaves_out_what_is_undecided_and_published_calls_it_background(make, data, logit):
    for balanced in (False, True):
        method = make(balanced=balanced)
        method.step.assign(50)
        outputs = method.forward(data, training=False)
        outputs["deviation"] = ops.zeros_like(outputs["deviation"])
        for view in ("target", "strong"):
            outputs[view]["logits"] = ops.full_like(outputs[view]["logits"], logit)
        consistency = float(method.losses(data, outputs)["consistency"])
        expected = 0.0 if balanced else np.log1p(np.exp(logit))
        assert consistency == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("separate", [False, True])
def test_one_batch_norm_for_all_views_shows_the_target_the_source_and_separate_ones_do_not(
    make, data, separate
):
    method, image = make(dropout=0.0, separate=separate), data["source"]["image"]
    logits = [
        np.array(
            method.forward({**data, "source": {**data["source"], "image": other}}, training=True)[
                "target"
            ]["logits"]
        )
        for other in (image, image + 0.5)
    ]
    assert np.array_equal(*logits) == separate


def test_stochastic_passes_differ_and_leave_batch_norm_alone(make, data):
    method = make(dropout=0.5)
    before = weights(method.network)
    image = data["target"]["image"]
    passes = [
        np.array(method.stochastic_head(method.encode(image))) for _ in range(3)
    ]
    assert all(np.abs(passes[0] - other).max() > 1e-3 for other in passes[1:])
    assert float(ops.max(method._stochastic_moments(image)[1])) > 1e-3
    assert equal(before, weights(method.network))


def test_the_passes_go_on_by_themselves_in_a_graph(make, data):
    method = make(dropout=0.5)
    draw = tf.function(lambda x: method._stochastic_moments(x)[0])
    first, second = (draw(data["target"]["image"]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_without_dropout_a_pass_is_the_network(make, data):
    method, image = make(dropout=0.0), data["target"]["image"]
    mean, deviation = method._stochastic_moments(image)
    np.testing.assert_allclose(
        mean, ops.sigmoid(method.network(image)["logits"]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(deviation, 0, atol=1e-6)


@pytest.mark.parametrize("name", [*REGULARISED, "adversarial_entropy", "adversarial_boundary"])
def test_every_term_reaches_the_network(make, data, name):
    method = make(warm_up=0.0, certainty=1.0)
    classifier = method.network.get_layer("head").get_layer("classifier")
    classifier.bias.assign([2.0, 2.0])  # so that there are pseudo-labels
    with tf.GradientTape() as tape:
        term = method.losses(data, method.forward(data, training=True))[name]
    gradients = tape.gradient(term, method.network.trainable_variables)
    assert any(g is not None and np.abs(g).max() > 0 for g in gradients)


def test_discriminators_learn_by_their_own_optimiser_and_network_terms_leave_them(make, data):
    method = make()
    for discriminator in method.discriminators.values():
        before = weights(discriminator)
        method.train_step(data)
        assert not equal(before, weights(discriminator))
    judges = list(method.discriminators.values())
    before = [weights(judge) for judge in judges]
    method.discriminator_optimizer.learning_rate = 0.0
    method.discriminator_optimizer.momentum = 0.0
    method.train_step(data)
    assert all(equal(b, weights(judge)) for b, judge in zip(before, judges, strict=True))


def test_discriminators_learn_to_tell_the_domains_apart(make, data):
    method = make(**BEAL)
    method.compile(keras.optimizers.SGD(0.0), keras.optimizers.Adam(1e-3))
    step = tf.function(method.train_step)
    first = step(data)
    for _ in range(12):
        last = step(data)
    for name in ("discriminator_entropy", "discriminator_boundary"):
        assert float(last[name]) < 0.9 * float(first[name])


def test_half_precision_leaves_the_discriminators_alone(two_part_network, data):
    with km.setup(precision="mixed_float16"):
        method = km.methods.CategoryRegularization(two_part_network(), True, **BEAL)
        method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2))
    assert type(method.optimizer).__name__ == "LossScaleOptimizer"
    assert type(method.discriminator_optimizer).__name__ == "SGD"
    before = [weights(d) for d in method.discriminators.values()]
    method.train_step(data)
    for b, d in zip(before, method.discriminators.values(), strict=True):
        moved = max(np.abs(x - y).max() for x, y in zip(b, weights(d), strict=True))
        assert 1e-8 < moved < 1e-1


def test_resumes_bit_for_bit(make, batches, tmp_path, stop_at):
    """Both optimisers, the prototypes and the seeds of dropout are where they were."""
    batches = replace(batches, boundary=True)
    whole, cut, again = make(), make(), make()
    km.fit(whole, batches, steps=4, run_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        km.fit(cut, stop_at(batches, 3), steps=4, run_dir=tmp_path / "cut")
    km.fit(again, batches, steps=4, run_dir=tmp_path / "cut")
    assert equal(weights(whole), weights(again))
    for a, b in zip(whole.discriminator_optimizer.variables,
                    again.discriminator_optimizer.variables, strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_another_rate_of_the_discriminators_is_another_run(make, batches, tmp_path):
    batches, judged = replace(batches, boundary=True), make(**BEAL)
    km.fit(judged, batches, steps=1, run_dir=tmp_path)
    harder = make(**BEAL)
    harder.compile(harder.optimizer, keras.optimizers.SGD(0.5, momentum=0.9))
    with pytest.raises(ValueError, match="discriminator_optimizer.learning_rate: .*0.5 now"):
        km.fit(harder, batches, steps=1, run_dir=tmp_path)


def test_discriminators_need_an_optimiser(two_part_network):
    method = km.methods.CategoryRegularization(two_part_network(), True)
    with pytest.raises(ValueError, match="discriminator_optimizer=.*needs both"):
        method.compile(keras.optimizers.Adam(1e-3))
    method.compile("adam", "sgd")  # Keras' own words
    assert isinstance(method.discriminator_optimizer, keras.optimizers.SGD)


def test_prototypes_are_kept_from_step_to_step_and_evaluation_leaves_them(make, data):
    method = make()
    assert not np.array(method.moving["source"]).any()
    method.train_step(data)
    first = np.array(method.moving["source"])
    assert np.array(losses.seen(first)).all()
    method.test_step(data)
    np.testing.assert_array_equal(method.moving["source"], first)


BAD = {
    "no cup": lambda d: {**d, "source": {**d["source"], "mask": d["source"]["mask"] * [[[0, 1]]]}},
    "no class": lambda d: {**d, "source": {**d["source"], "mask": d["source"]["mask"] * 0}},
    "black target": lambda d: {**d, "target": {k: 0 * v - 1 for k, v in d["target"].items()}},
    "one image": lambda d: tf.nest.map_structure(lambda x: x[:1], d),
}


@pytest.mark.parametrize("bad", BAD)
def test_trains_on_with(make, data, bad):
    method, batch = make(warm_up=0.0), BAD[bad](data)
    for _ in range(3):
        terms = method.train_step(batch)
        assert all(np.isfinite(float(value)) for value in terms.values()), terms
    assert all(np.isfinite(w).all() for w in weights(method))


def test_the_mean_teacher_follows_the_network(make, data):
    method = make(**MEAN_TEACHER)
    start = weights(method.teacher)
    method.train_step(data)
    for a, old, new in zip(method.teacher.weights, start, weights(method.network), strict=True):
        np.testing.assert_allclose(a, (old + new) / 2, atol=1e-6)  # a = 1 − 1 / 2


def test_the_mean_teachers_weight_rises(make, data):
    early, late = make(**MEAN_TEACHER), make(**MEAN_TEACHER)
    late.step.assign(40)
    a, b = values(early, data)["mean_teacher"], values(late, data)["mean_teacher"]
    assert a == pytest.approx(b * np.exp(-5), rel=1e-4)


def test_exclusive_classes_train_as_well(two_part_network, data):
    with km.setup():
        method = km.methods.CategoryRegularization(two_part_network(channels=3), False, warm_up=0)
        method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2))
    method.total_steps = 10
    cup, disc = np.moveaxis(np.array(data["source"]["mask"]), -1, 0)
    mask = np.stack([1 - disc, disc - cup, cup], axis=-1)
    terms = method.train_step({**data, "source": {**data["source"], "mask": mask}})
    assert all(np.isfinite(float(value)) for value in terms.values())


def test_a_network_without_a_boundary_gets_one_that_is_trained_beside_it(data):
    with km.setup():
        network = km.models.UNet((32, 32, 3), channels=2, filters=(4, 8, 8))  # features at 1/2
        method = km.methods.CategoryRegularization(network, True, **BEAL)
        method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2))
    outputs = method.forward(data, training=False)
    assert outputs["source"]["boundary"].shape == data["source"]["boundary"].shape
    assert "boundary" not in network.output
    before = weights(method.boundary_head)
    method.train_step(data)
    assert not equal(before, weights(method.boundary_head))


def test_prototypes_of_coarse_features_are_those_of_coarse_masks(data):
    network = km.models.UNet((32, 32, 3), channels=2, filters=(4, 8, 8))
    method = km.methods.CategoryRegularization(network, True, passes=2)
    method.total_steps = 1
    mask = np.array(data["source"]["mask"])[:, ::2, ::2]
    features = np.array(network(data["source"]["image"])["features"])
    cup = (mask[..., :1] * features).sum((0, 1, 2)) / mask[..., :1].sum()
    found = method.forward(data, training=False)["prototypes"]
    np.testing.assert_allclose(found[0], cup, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 1}, "passes=1; expected 2 or more"),
        ({"alignment": -1.0}, r"weights \(.*-1.0.*\); expected 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message, two_part_network):
    with pytest.raises(ValueError, match=message):
        km.methods.CategoryRegularization(two_part_network(), True, **settings)


def test_what_a_batch_lacks_is_named(make, data):
    bare = {k: v for k, v in data["source"].items() if k != "boundary"}
    with pytest.raises(ValueError, match=r"Batches\(..., boundary=True\)"):
        make().train_step({**data, "source": bare})
    with pytest.raises(ValueError, match="hold no target"):
        make().train_step({"source": data["source"]})
    plain = {"image": data["target"]["image"]}
    with pytest.raises(ValueError, match=r"holds \['image'\], no strong view"):
        make().train_step({**data, "target": plain})
