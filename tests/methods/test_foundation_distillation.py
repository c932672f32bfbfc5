import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda import losses
from keras_meduda.run import folder as run_folder

TERMS = ["mask_bce", "mask_mse", "feature"]


def make(teacher_channels=6, optimizer=None, deep_supervision=False, **settings):
    with km.setup():
        network = km.models.UNetPlusPlus((16, 16, 1), 1, (3, 4), deep_supervision)
        method = km.methods.FoundationDistillation(network, teacher_channels, **settings)
        method.compile(optimizer or keras.optimizers.SGD(0.1))
    method.total_steps = 100
    return method


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    target = {
        "image": rng.random((2, 16, 16, 1)),
        "teacher": rng.random((2, 16, 16, 1)),
        "teacher_variance": np.array([0.02, 0.2]),
        "teacher_entropy": np.array([0.5, 0.9]),
        "teacher_features": rng.normal(size=(2, 8, 5, 6)),
    }
    return {"target": {k: v.astype("float32") for k, v in target.items()}}


def evaluate(method, batch):
    return {name: float(value) for name, value in method.test_step(batch).items()}


def distances(method, batch):
    """Mean distances of both images, `(2, terms)`."""
    return np.array(method.forward(batch, training=False)["distances"])


def test_a_dice_term_joins_on_request(batch):
    plain, method = make(teacher_channels=None), make(teacher_channels=None, dice=2.0)
    outputs = method.forward(batch, training=False)
    terms = method.losses(batch, outputs)
    assert "mask_dice" not in plain.losses(batch, plain.forward(batch, training=False))
    logits = method.network(batch["target"]["image"], training=False)["logits"]
    expected = 2.0 * losses.dice_loss(batch["target"]["teacher"], logits, overlapping=True)
    assert float(terms["mask_dice"]) == pytest.approx(float(expected), abs=1e-6)


def test_pixels_that_weigh_nothing_teach_nothing(batch):
    """Neither by the distances nor by the Dice term does the loss know what lies there."""
    method = make(teacher_channels=None, dice=1.0, ulwr=(1, 1, 1))
    weight = np.ones((2, 16, 16, 1), "float32")
    weight[:, 8:] = 0
    target = {**batch["target"], "teacher_weight": weight}
    other = {**target, "teacher": np.where(weight > 0, target["teacher"], 1 - target["teacher"])}
    terms = [evaluate(method, {"target": half}) for half in (target, other)]
    assert terms[0]["mask_dice"] > 0.1
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)


def test_the_loss_weighs_every_image_by_its_own_variance(batch):
    method = make()
    found = evaluate(method, batch)
    weights = np.array(losses.ulwr_weights(batch["target"]["teacher_variance"]))
    expected = (weights * distances(method, batch)).mean(axis=0)
    assert [found[name] for name in TERMS] == pytest.approx(expected.tolist(), abs=1e-6)
    spread = np.mean(losses.weight_spread(weights))
    assert found["regularisation"] == pytest.approx(spread, abs=1e-6)
    assert found["loss"] == pytest.approx(expected.sum() + spread, abs=1e-6)
    assert [found[f"weight_{name}"] for name in TERMS] == pytest.approx(weights.mean(0).tolist())
    assert found["variance"] == pytest.approx(0.11)


def test_distances_are_those_of_the_networks_outputs(batch):
    method, target = make(), batch["target"]
    outputs = method.network(target["image"], training=False)
    bce, mse = losses.mask_distances(target["teacher"], outputs["logits"])
    np.testing.assert_allclose(distances(method, batch)[:, 0], bce, rtol=1e-6)
    np.testing.assert_allclose(distances(method, batch)[:, 1], mse, rtol=1e-6)


def test_a_projection_onto_the_students_own_features_leaves_no_distance(batch):
    """The feature term compares what the projection makes of `features`, on the teacher's grid."""
    method, target = make(teacher_channels=3), batch["target"]
    method.projection.set_weights([np.eye(3), np.zeros(3)])
    own = method.network(target["image"], training=False)["features"]
    taught = {"target": {**target, "teacher_features": own}}
    assert distances(method, taught)[:, 2] == pytest.approx([0, 0], abs=1e-7)
    taught["target"]["teacher_features"] = -np.array(own)
    assert (distances(method, taught)[:, 2] > 1.3).all()  # (2 + 2) / 3


def test_without_an_embedding_two_weights_sum_to_one(batch):
    without = {"target": {k: v for k, v in batch["target"].items() if k != "teacher_features"}}
    found = evaluate(make(teacher_channels=None), without)
    assert "feature" not in found and "weight_feature" not in found
    assert found["weight_mask_bce"] + found["weight_mask_mse"] == pytest.approx(1)


def test_entropy_takes_the_place_of_the_variance(batch):
    found = evaluate(make(ulwr="entropy"), batch)
    weights = np.mean(losses.ulwr_weights(np.array([0.5, 0.9])), axis=0)
    assert [found[f"weight_{name}"] for name in TERMS] == pytest.approx(weights.tolist())


def test_kendall_starts_with_equal_weights_and_learns_them(batch):
    method = make(ulwr="kendall")
    found = evaluate(method, batch)
    means = distances(method, batch).mean(axis=0)
    assert found["loss"] == pytest.approx(means.sum(), abs=1e-6)
    trained = np.array(method.forward(batch, training=True)["distances"]).mean(axis=0)
    method.train_step(batch)
    np.testing.assert_allclose(method.log_variances, -0.1 * (1 - trained), atol=1e-5)


def test_fixed_weights_are_scaled_to_one(batch):
    method = make(ulwr=(3, 1, 0))
    found, means = evaluate(method, batch), distances(method, batch).mean(axis=0)
    assert found["loss"] == pytest.approx(0.75 * means[0] + 0.25 * means[1], abs=1e-6)
    assert "regularisation" not in found


def test_dynamic_weights_compare_two_periods(batch):
    """Two updates a period; nothing is known before the end of the second one."""
    method = make(ulwr="dwa", optimizer=keras.optimizers.SGD(0.0))
    before, last = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 6.0])
    for step, value in enumerate([before, before, last - 0.25, last + 0.25]):
        assert np.array(method._weights(None))[0] == pytest.approx([1, 1, 1])
        method._remember(value)
        method.step.assign(step + 1)
    np.testing.assert_allclose(method._weights(None)[0], losses.dynamic_weights(last, before))
    method.test_step(batch)
    np.testing.assert_allclose(method.running, 0)
    method.train_step(batch)
    assert (np.array(method.running) > 0).all()


def own_masks(method, batch):
    """What the student makes of the images, in 0…1."""
    return np.array(losses.probabilities(method.network(batch["target"]["image"])["logits"], True))


def test_the_student_has_a_say_only_in_images_where_it_agrees_with_its_teacher(batch):
    """Of two images the teacher says of one what the student does, of the other the opposite."""
    method = make(refine=1.0, teacher_channels=None)
    own = own_masks(method, batch)
    says = np.where(own > 0.5, 0.9, 0.1).astype("float32")
    says[1] = 1 - says[1]
    method.step.assign(100)
    found = np.array(method._refined({**batch["target"], "teacher": says}))
    np.testing.assert_allclose(found[0], own[0], atol=1e-6)
    np.testing.assert_allclose(found[1], says[1], atol=1e-6)


def test_two_empty_masks_agree(batch):
    method = make(refine=1.0, teacher_channels=None)
    empty = np.full((2, 16, 16, 1), 0.2, "float32")
    assert np.array(method._agree(empty, empty)).tolist() == np.ones((2, 1, 1, 1)).tolist()


def test_co_learning_replaces_the_mask_as_the_training_goes_on(batch):
    method = make(refine=1.0, ema=0.0, teacher_channels=None)
    own = own_masks(method, batch)
    teacher = np.where(own > 0.5, 0.9, 0.1)
    for step, expected in [(0, teacher), (100, own)]:
        method.step.assign(step)
        found = np.array(method._refined({**batch["target"], "teacher": teacher}))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    method.train_step(batch)
    for a, w in zip(method.average.weights, method.network.weights, strict=True):
        np.testing.assert_allclose(a, w, atol=1e-7)


def test_labelled_images_add_the_supervised_loss(batch):
    rng = np.random.default_rng(1)
    source = {
        "image": rng.random((3, 16, 16, 1)).astype("float32"),
        "mask": (rng.random((3, 16, 16, 1)) > 0.5).astype("float32"),
    }
    method = make()
    alone, both = evaluate(method, batch), evaluate(method, {**batch, "source": source})
    logits = method.network(source["image"], training=False)["logits"]
    expected = float(losses.segmentation(source["mask"], logits, True))
    assert both["segmentation"] == pytest.approx(expected, abs=1e-6)
    assert both["loss"] == pytest.approx(alone["loss"] + expected, abs=1e-5)


def test_heads_at_every_depth_share_the_mask_terms(batch):
    with km.setup():
        network = km.models.UNetPlusPlus((16, 16, 1), 1, (3, 4, 5), deep_supervision=True)
        method = km.methods.FoundationDistillation(network)
    outputs = network(batch["target"]["image"], training=False)
    bce = [
        np.array(losses.mask_distances(batch["target"]["teacher"], outputs[name])[0])
        for name in ("logits", "aux_1")
    ]
    np.testing.assert_allclose(distances(method, batch)[:, 0], np.mean(bce, axis=0), rtol=1e-5)

    mask = np.round(batch["target"]["teacher"])
    labelled = {**batch, "source": {"image": batch["target"]["image"], "mask": mask}}
    supervised = [
        float(losses.segmentation(mask, outputs[name], True)) for name in ("logits", "aux_1")
    ]
    method.total_steps = 100
    found = method.losses(labelled, method.forward(labelled, training=False))["segmentation"]
    assert float(found) == pytest.approx(np.mean(supervised), abs=1e-5)


@pytest.mark.parametrize(("overlapping", "expected"), [(True, 3), (False, 2)])
def test_a_teacher_of_other_classes_is_refused(batch, overlapping, expected):
    with km.setup():
        network = km.models.UNetPlusPlus((16, 16, 1), 3, (3, 4))
        method = km.methods.FoundationDistillation(network, overlapping=overlapping)
    message = f"gives 3 logits a pixel and the teacher 1 masks; expected {expected}, one for each"
    with pytest.raises(ValueError, match=message):
        method.forward(batch, training=False)


def test_exclusive_classes_are_learnt_beside_what_no_mask_claims(batch):
    """Of one class, two logits and softmax teach what one logit and a sigmoid do."""
    with km.setup():
        network = km.models.UNetPlusPlus((16, 16, 1), 2, (3, 4))
        method = km.methods.FoundationDistillation(network, overlapping=False, refine=1.0, dice=1.0)
        method.compile(keras.optimizers.SGD(0.1))
    method.total_steps = 100
    outputs = method.forward(batch, training=False)
    z = np.array(network(batch["target"]["image"])["logits"])
    alike = losses.mask_distances(batch["target"]["teacher"], z[..., 1:] - z[..., :1])
    np.testing.assert_allclose(outputs["distances"], np.stack(alike, -1), rtol=1e-4)
    assert np.isfinite(float(method.train_step(batch)["loss"]))


def test_heads_and_features_at_other_resolutions_are_brought_to_the_teachers(batch):
    with km.setup():
        network = km.models.UNetS5D16((16, 16, 1), 1)  # aux_1 at half the size
        method = km.methods.FoundationDistillation(network, teacher_channels=6)
        method.compile(keras.optimizers.SGD(0.1))
    outputs = network(batch["target"]["image"], training=False)
    coarse = np.array(method.resize([outputs["aux_1"], batch["target"]["image"]]))
    of_heads = [losses.mask_distances(batch["target"]["teacher"], head)[0]
                for head in (outputs["logits"], coarse)]  # fmt: skip
    np.testing.assert_allclose(distances(method, batch)[:, 0], np.mean(of_heads, 0), rtol=1e-4)


def test_everything_that_is_trained_is_in_a_checkpoint():
    method = make(ulwr="kendall", refine=0.5)
    method.build()
    kept = {id(v) for v in run_folder._variables(method).values()}
    assert {id(v) for v in method.trained_variables} <= kept
    assert {id(v) for v in method.average.weights} <= kept
    assert len(method.trained_variables) == len(method.network.trainable_variables) + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ulwr": "gradnorm"}, "ulwr='gradnorm'; expected one of .'original', 'entropy'"),
        ({"ulwr": (1, 1)}, r"ulwr=\(1, 1\); expected one of .* three fixed weights"),
        ({"ulwr": (0, 0, 1), "teacher_channels": None}, "not all 0"),
        ({"feature_loss": "l1"}, "feature_loss='l1'; expected 'normalised' or 'mse'"),
        ({"refine": 2}, "refine=2, ema=0.99, dice=0.0; expected two shares"),
        ({"ema": 7}, "ema=7, dice=0.0; expected two shares"),
        ({"dice": -3}, "dice=-3; .* a weight of 0 or more"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_dynamic_weights_need_the_number_of_steps(batch):
    method = make(ulwr="dwa")
    method.total_steps = None
    with pytest.raises(ValueError, match="method.total_steps"):
        method.train_step(batch)


def test_refining_and_averaging_go_as_far_as_they_are_told(batch):
    method, target = make(refine=0.5, ema=0.9), batch["target"]
    method.step.assign(100)
    own = own_masks(method, batch)
    target = {**target, "teacher": np.where(own > 0.5, 0.9, 0.1).astype("float32")}
    expected = 0.5 * target["teacher"] + 0.5 * own
    np.testing.assert_allclose(method._refined(target), expected, atol=1e-5)
    before = method.average.get_weights()
    method.train_step(batch)
    after = method.average.get_weights(), method.network.get_weights()
    for b, a, w in zip(before, *after, strict=True):
        np.testing.assert_allclose(a, 0.9 * b + 0.1 * w, atol=1e-6)


def test_the_plain_feature_distance_is_one_of_values(batch):
    target = dict(batch["target"])
    target["teacher_features"] = np.repeat(target["teacher"], 6, axis=-1)  # on the student's grid
    method = make(feature_loss="mse")
    features = method.projection(method.network(target["image"], training=False)["features"])
    expected = losses.feature_distance(features, target["teacher_features"], False)
    np.testing.assert_allclose(distances(method, {"target": target})[:, 2], expected, rtol=1e-4)


def test_what_a_batch_lacks_is_named(batch):
    target = {name: x for name, x in batch["target"].items() if name != "teacher_features"}
    with pytest.raises(ValueError, match="has no target/teacher_features; there are target/image"):
        make().forward({"target": target}, training=False)
