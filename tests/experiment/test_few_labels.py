"""The last step on a few labelled target cases: what is kept, what is not, and by which figures."""

import json

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.augment import Geometry
from keras_meduda.data.cases import read_cases, write_cases
from keras_meduda.data.io import write_picture
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.data.pipeline import Batches, prepare
from keras_meduda.evaluation.adjust import Few
from keras_meduda.experiment import few_labels
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe
from keras_meduda.recipes import aerunet_kd


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has learnt camera a, eight labelled cases of camera b, and those of camera a."""
    folder = tmp_path_factory.mktemp("few")
    cases = read_cases(write_fundus(folder, cases_per_domain=8, size=48))
    one, other = (cases[cases["domain"] == name] for name in ("camera_a", "camera_b"))
    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    source = prepare(one, task, km.Preprocessing((32, 32)), folder / "store", labels=True)
    with km.setup(seed=0):
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(8, 16))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(5e-3))
    run = km.fit(method, Batches(4, source=source), steps=60, run_dir=folder / "run")
    return run, other, one


def ended(run, cases, folder, steps, monkeypatch, rate=5e-3):
    monkeypatch.setattr(few_labels, "STEPS", steps)
    monkeypatch.setattr(few_labels, "LEARNING_RATE", rate)
    views = {"geometry": Geometry(rotation=0.0)}
    given = {"given": {"adapted": run}, "batch_size": 4, "batches": views}
    recipe = Recipe("few", run.preprocessing, {}, **given)
    data = Data(run.task, {few_labels.PART: cases}, {}, "phantoms")
    return few_labels.few_labels(recipe, data, Options(out=folder), run, run)


@pytest.mark.slow
def test_labels_that_help_those_left_out_are_kept(trained, tmp_path, monkeypatch):
    run, target, _ = trained
    before = [w.copy() for w in run.network.get_weights()]
    better, reason = ended(run, target, tmp_path, (20, 40), monkeypatch)
    assert reason.startswith("8 labelled target cases of 6 patients ")
    assert json.loads((tmp_path / "few" / "decision.json").read_text()) == {"reason": reason}
    was, *others = (float(word.rstrip(",")) for word in reason.split() if word[:2] in ("0.", "1."))
    assert max(others) > was
    kept = km.load(tmp_path / "few")
    assert better.path == kept.path
    scores = [km.evaluate(r, target)["dice"].mean() for r in (run, kept)]
    assert scores[1] > scores[0]
    for a, b in zip(before, run.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_encoder_and_all_statistics_stay(trained, tmp_path):
    run, target, _ = trained
    prepared = prepare(target, run.task, run.preprocessing, tmp_path, labels=True)
    recipe = Recipe("few", run.preprocessing, {}, given={"adapted": run}, batch_size=4)
    (tuned,) = few_labels._Tuner(recipe, run, seed=0).after(prepared, (2,))
    moved = [
        w.path
        for w, v in zip(tuned.network.weights, run.network.weights, strict=True)
        if not np.array_equal(w, v)
    ]
    assert moved and not [path for path in moved if "moving" in path or "enc" in path]


@pytest.mark.slow
def test_labels_that_do_not_help_leave_nothing(trained, tmp_path, monkeypatch):
    """A learning rate that ruins the decoder, and the run's own masks: nothing can be better."""
    run, _, cases = trained
    for row in cases.itertuples():
        masks = run.task.masks(km.predict(run, row.image))
        write_picture(tmp_path / f"{row.case}.png", run.task.decode(masks))
    cases = cases.assign(mask=[str(tmp_path / f"{case}.png") for case in cases["case"]])
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "network.keras").touch()  # as an earlier table has left it
    found, reason = ended(run, cases, tmp_path, (2,), monkeypatch, rate=1.0)
    assert found is None and "are not used: the gain of " in reason
    assert not (tmp_path / "few").exists()


@pytest.mark.parametrize(
    ("after", "taken"), [((0.9, 0.9, 0.4), False), ((0.61, 0.62, 0.63), True)]
)
def test_a_gain_within_its_standard_error_is_none(trained, tmp_path, monkeypatch, after, taken):
    """Dice of three patients with a temperature and a bias for each class; fine-tuning harms."""
    run, target, _ = trained
    cases = target.drop_duplicates("group").iloc[:3]
    before, after = np.full(3, 0.6), np.array(after)
    adjusted = Few(run, 1.0, (0.0, 0.0), before, after)
    monkeypatch.setattr(few_labels, "few", lambda *_: adjusted)
    monkeypatch.setattr(few_labels, "_left_out", lambda *_: np.full((3, 2), 0.5))
    found, reason = ended(run, cases, tmp_path, (1, 2), monkeypatch)
    assert bool(found) == taken and ("is not above its standard error" in reason) != taken
    assert "is the best of 3 on these patients" in reason


def test_a_table_that_cannot_be_used_is_refused_before_the_training(phantoms, tmp_path):
    cases = read_cases(phantoms)
    domains = {"source_domain": "camera_a", "target_domain": "camera_b"}
    write_cases(cases[cases["domain"] == "camera_b"], tmp_path / "few.csv")
    flags = aerunet_kd.Flags(cases=phantoms, few=tmp_path / "few.csv", out=tmp_path, **domains)
    with pytest.raises(ValueError, match="--few .*: cases .* are of patients of the test part"):
        aerunet_kd.data(flags)
