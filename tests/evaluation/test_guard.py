"""The guard: each score by its law, and what it decides on good and on collapsed networks."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import write_picture
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.evaluation.guard import (
    SHARES,
    area_changes,
    decide,
    interpolate,
    paired_error,
    styled_dice,
)
from keras_meduda.run import Run
from keras_meduda.task import Preprocessing, Task

TASK = Task(("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
SMALL = Preprocessing((32, 32))


def network():
    return km.models.AERUNet((32, 32, 3), channels=2, filters=(8, 16))


@pytest.fixture(scope="module")
def shift(tmp_path_factory):
    """A source and a target of the fundus phantoms, and a run trained on the source."""
    folder = tmp_path_factory.mktemp("shift")
    cases = km.read_cases(write_fundus(folder, cases_per_domain=20, size=48))
    one, other = (cases[cases["domain"] == name] for name in ("camera_a", "camera_b"))
    store = folder / "store"
    target = prepare(without_masks(other[:10]), TASK, SMALL, store, labels=False)
    held = prepare(one[10:], TASK, SMALL, store, labels=True)
    parts = {
        "source": prepare(one[:10], TASK, SMALL, store, labels=True),
        "target": target,
        "oracle": prepare(other[:10], TASK, SMALL, store, labels=True),
        "held": add_styles(held, target, store, variants=1),
        "groups": list(one["group"][10:]),
        "folder": folder,
    }
    parts["source_only"] = trained(network, parts["source"], folder / "source_only", 60)
    return parts


def trained(build, data, folder, steps):
    with km.setup():
        method = km.methods.Supervised(build(), overlapping=True)
        method.compile(keras.optimizers.Adam(5e-3))
    return km.fit(method, Batches(4, source=data), steps=steps, run_dir=folder)


def decided(shift, adapted):
    parts = shift["source_only"], adapted, shift["held"], shift["target"], shift["groups"]
    return decide(*parts, reverse_steps=20)


def changed(run, change):
    """A run whose weights are changed."""
    other = keras.models.clone_model(run.network)
    other.set_weights([change(w) for w in run.network.get_weights()])
    return replace(run, network=other)


def test_what_is_good_on_the_target_is_taken(shift):
    def start():
        return km.load(shift["source_only"].path).network

    good = trained(start, shift["oracle"], shift["folder"] / "good", 40)
    decision = decided(shift, good)
    assert decision.a >= 0.5
    assert list(decision.scores["a"]) == list(SHARES)
    assert decision.scores["verdict"][0] == "passes"
    assert "taken" in decision.reason and decision.reason.count(". ") <= 2
    taken, given = (r.network.get_weights() for r in (decision.run, shift["source_only"]))
    assert any(not np.array_equal(a, b) for a, b in zip(taken, given, strict=True))


def test_what_finds_nothing_is_refused(shift):
    """The classifier's bias, so that statistics cannot make it good again."""

    def collapse(w):
        return w - np.float32(9) * (w.shape == (2,))

    decision = decided(shift, changed(shift["source_only"], collapse))
    assert decision.a < 1
    assert decision.scores["verdict"].iloc[-1] != "passes"
    assert decision.reason.startswith(("Source only is kept", "The network"))


def test_a_reverse_network_that_learns_nothing_has_no_vote(shift):
    worse = changed(shift["source_only"], lambda w: w - np.float32(0.3) * (w.shape == (2,)))
    parts = shift["source_only"], worse, shift["held"], shift["target"], shift["groups"]
    scores = decide(*parts, reverse_steps=1).scores
    assert scores["s2"][0] < 0.5
    assert scores["s2"][1:].isna().all(), "it is not asked again"
    assert not scores["verdict"].str.contains("reverse").any()


def threshold(level):
    """A run that finds what is brighter than a level."""
    image = keras.Input((32, 32, 3), name="image")
    layer = keras.layers.Conv2D(1, 1, name="logits")
    network = keras.Model(image, {"logits": layer(image)})
    bias = np.float32([-8 * (level / 127.5 - 1)])
    layer.set_weights([np.full((1, 1, 3, 1), 8 / 3, "float32"), bias])
    return Run(Path("none"), network, Task(("disc",), True, {"disc": (1,)}), SMALL)


def discs(folder, middle, around):
    """Ten discs of one brightness, prepared with their masks."""
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        centre = rng.uniform(10, 22, 2)[:, None, None]
        mask = np.hypot(*(np.indices((32, 32)) - centre)) < 8
        image = np.where(mask, middle, around) + rng.normal(0, 5, mask.shape)
        files = folder / f"{middle}_{i}.png", folder / f"{middle}_{i}_mask.png"
        for file, array in zip(files, (np.repeat(image[..., None], 3, -1), mask), strict=True):
            write_picture(file, array.astype("uint8"))
        rows.append((f"{middle}_{i}", "", "", "", *map(str, files)))
    cases = pd.DataFrame(rows, columns=["case", "domain", "split", "group", "image", "mask"])
    return prepare(cases, threshold(0).task, SMALL, folder / "store", labels=True)


def test_every_way_to_make_the_target_s_style_may_refuse(tmp_path):
    """Better at the twins that it was trained on, worse at others: it was misled."""
    source, bright, dark = (discs(tmp_path, *s) for s in ((200, 40), (220, 140), (120, 60)))
    bright, dark = (replace(half, labels=()) for half in (bright, dark))
    ways = [add_styles(source, half, tmp_path / "store", 1).styles for half in (bright, dark)]
    both = tuple(a + b for a, b in zip(*ways, strict=True))
    scores = {}
    for name, styles in (("one", ways[0]), ("both", both)):
        held = replace(source, styles=styles)
        parts = threshold(100), threshold(180), held, bright, range(10)
        scores[name] = decide(*parts, reverse_steps=1).scores.iloc[-1]
    assert scores["one"]["s1_difference"] > 0.3 and scores["one"]["s1_fall"] <= 0
    assert scores["both"]["s1_difference"] < -0.3
    assert scores["both"]["verdict"].startswith("Dice on the source in the target's style falls")


def test_the_best_step_is_not_passed_by(shift):
    """Better than source only, and worse than a smaller step: too far."""
    parts = threshold(60), threshold(195), *_discs_between(shift["folder"])
    scores = decide(*parts, reverse_steps=1).scores
    best = scores["s1"].argmax()
    assert 0 < best < 4 and scores["s1"].iloc[-1] >= scores["s1"][0]
    assert scores["s1_fall"][best] <= 0 < scores["s1_fall"].iloc[-1]
    assert scores["verdict"].iloc[-1] != "passes"


def _discs_between(folder):
    """Held-out source and target of discs that no threshold but one in the middle finds."""
    (folder / "between").mkdir()
    source, target = discs(folder / "between", 200, 120), discs(folder / "between", 201, 121)
    held = add_styles(source, replace(target, labels=()), folder / "between" / "store", 1)
    return held, replace(target, labels=()), range(10)


def test_few_target_cases_decide_nothing(shift):
    few = {**shift, "target": shift["target"].only(range(5))}
    decision = decided(few, shift["source_only"])
    assert decision.a == 0 and decision.run is shift["source_only"]
    assert "the target has 5 cases" in decision.reason


def test_the_ends_of_the_way_are_the_two_networks():
    one, other = network(), network()
    for a, end in ((0.0, one), (1.0, other)):
        for w, v in zip(interpolate(one, other, a), end.get_weights(), strict=True):
            np.testing.assert_allclose(w, v, atol=1e-6)
    half = interpolate(one, other, 0.5)
    for h, w, v in zip(half, one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(h, (w + v) / 2, atol=1e-6)


def test_dice_in_the_target_s_style_is_one_for_the_masks_themselves(run):
    labels = [np.random.default_rng(0).random((32, 32, 2)) < 0.3]
    images = [np.zeros((32, 32, 3), "float32")]
    assert styled_dice(run, images, [run.task.masks(run.probabilities(images[0][None])[0])]) == 1
    assert styled_dice(run, images, labels) < 1


def test_the_error_of_a_difference_is_that_of_its_mean_over_patients():
    rng = np.random.default_rng(0)
    d = rng.normal(size=400)
    assert paired_error(d, np.arange(400)) == pytest.approx(d.std() / 20, rel=0.1)
    twice = paired_error(np.repeat(d, 2), np.repeat(np.arange(400), 2))
    assert twice == pytest.approx(paired_error(d, np.arange(400)), rel=1e-6)


def test_a_larger_area_needs_a_source_that_gains_by_it(tmp_path):
    """Twice the area: refused where S1 hardly rises, whatever the source's masks take."""
    source, target = (discs(tmp_path, *levels) for levels in ((200, 40), (150, 60)))
    target = replace(target, labels=())
    held = add_styles(source, source, tmp_path / "store", 1)  # nothing to gain in this style
    parts = threshold(148), threshold(100), held, target, range(10)
    scores = decide(*parts, reverse_steps=1).scores
    assert abs(scores["s1_difference"]).max() < 0.1 and scores["s4_area"].iloc[-1] > 1.25
    assert scores["verdict"].iloc[-1].startswith(("the area of a class", "confidence"))


def test_the_area_may_change_no_faster_than_the_way_goes(tmp_path):
    """On ramps the area grows from the first step; on discs it is level before it explodes."""
    source, target = (discs(tmp_path, *levels) for levels in ((200, 40), (150, 60)))
    held = add_styles(source, source, tmp_path / "store", 1)
    ramp = np.tile(np.linspace(0, 255, 32).astype("uint8"), (32, 1))
    write_picture(tmp_path / "ramp.png", np.repeat(ramp[..., None], 3, -1))
    ramps = pd.DataFrame({"case": list("abcdefgh"), "image": str(tmp_path / "ramp.png")})
    ramps = prepare(ramps, target.task, SMALL, tmp_path / "store", labels=False)

    def way(first, last, images):
        parts = threshold(first), threshold(last), held, replace(images, labels=()), range(10)
        return decide(*parts, reverse_steps=1)

    drifts = way(128, 60, ramps)
    assert 1 < drifts.scores["s4_area"][1] < 1.25 and drifts.a == 0
    assert drifts.scores["verdict"][1].startswith("the area of a class")
    assert way(144, 120, target).a == 1, "an area that ends in range"
    level = way(140, 50, target)
    assert level.scores["s4_area"].iloc[-1] > 2 and level.a == 0.5


def test_areas_and_empties_are_of_the_worst_class():
    before = np.tile([0.1, 0.2], (10, 1))
    assert area_changes(before, before) == (0, 1)
    assert area_changes(before * [1, 0.4], before) == pytest.approx((0, 0.4))
    assert area_changes(before * [3, 0.9], before) == pytest.approx((0, 3))
    missing = before.copy()
    missing[:3, 0] = 0
    assert area_changes(missing, before) == pytest.approx((0.3, 0.7))
    assert area_changes(before * [3, 1], before, expected=before * 4) == (0, 1), "nearer"
    further = area_changes(before * [3, 1], before, expected=before)
    assert further == pytest.approx((0, 3)), "away from the source's masks"
    assert area_changes(before * 0, before * 0) == (0, 1)  # nothing was there, nothing is missed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held": "plain"}, "0 with style twins; expected all three"),
        ({"groups": ["a"]}, "1 groups for 10 source cases"),
        ({"source_only": "other"}, "different networks"),
    ],
)
def test_what_cannot_be_judged_is_said(shift, run, change, message):
    made = {"plain": replace(shift["held"], styles=()), "other": run, "groups": ["a"]}
    given = {k: made[v] if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=f"decide: .*{message}"):
        decided({**shift, **given}, shift["source_only"])
