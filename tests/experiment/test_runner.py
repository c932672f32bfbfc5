"""The one way an experiment runs: what starts from what, and what is refused before it starts."""

import hashlib
import json
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import read_mask, write_picture
from keras_meduda.data.parts import read_parts
from keras_meduda.evaluation.confidence import labelled_inputs
from keras_meduda.evaluation.report.facts import about_run
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe, Stage, supervised
from keras_meduda.experiment.runner import announce, run, train

network = partial(km.models.AERUNet, filters=(4, 8))


@pytest.fixture
def data(phantoms):
    cases = km.read_cases(phantoms)
    source, target = (cases[cases["domain"] == f"camera_{name}"] for name in "ab")
    trains, tested = (target[target["split"] == part] for part in ("train", "test"))
    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    parts = {"source": source[source["split"] == "train"], "target": without_masks(trains)}
    tests = {"target, test": tested[:1], "source, test": source[source["split"] == "test"][:1]}
    return Data(task, parts, tests, "phantoms")


def distil(network, batches):
    return km.methods.KLDistillation(network, batches.task.overlapping, mode="strong", ema=0.9)


def source_free(network, batches):
    return km.methods.SourceFree(network, batches.task.overlapping, (0.1, 0.3))


def recipe(preprocessing=None, **stages):
    preprocessing = preprocessing or km.Preprocessing(size=(32, 32), intensity=("clahe",))
    stages = stages or {"source_only": Stage(supervised)}
    return Recipe("Test", preprocessing, stages, network, steps=2, batch_size=2)


def weights(network):
    return np.concatenate([np.ravel(w) for w in network.get_weights()])


def starts(folder):
    return json.loads((folder / "config.json").read_text())["start"]


def test_where_each_stage_starts(data, tmp_path):
    """`first` with source only's very first weights, a name with what that stage ended in."""
    stages = {
        "source_only": Stage(supervised),
        "again": Stage(supervised, start="first"),
        "adapted": Stage(source_free, ("target",), start="source_only"),
    }
    seen = {}

    def note(name, network):
        seen[name] = weights(network)

    stages = {name: replace(s, prepare=partial(note, name)) for name, s in stages.items()}
    runs = run(recipe(**stages), data, Options(out=tmp_path, seed=3))
    np.testing.assert_array_equal(seen["again"], seen["source_only"])
    np.testing.assert_array_equal(seen["adapted"], weights(runs["source_only"].network))
    assert (weights(runs["again"].network) != seen["again"]).any()
    assert starts(tmp_path / "again") == starts(tmp_path / "source_only") != starts(tmp_path)
    for folder, trained in ((tmp_path / "again", {"source"}), (tmp_path, {"source", "target"})):
        cases = read_parts(folder)  # what trained the run that it started from trained it as well
        assert set(cases["part"][cases["split"] == "train"]) == trained
        assert set(cases["part"][cases["split"] == "test"]) == set(data.tests)


def test_each_stage_says_which_weights_it_began_with(data, tmp_path):
    """The file's name and checksum, also of a stage that begins as the first one did."""
    file, out = tmp_path / "given.weights.h5", tmp_path / "run"
    network((32, 32, 3), 2).save_weights(file)
    given = recipe(source_only=Stage(supervised), adapted=Stage(supervised, start="first"))
    runs = train(replace(given, network=partial(network, weights=file)), data, Options(out=out))
    expected = f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    for folder in (out / "source_only", out):
        assert json.loads((folder / "config.json").read_text())["weights"] == expected
    assert about_run(runs["adapted"])["First weights"] == expected


def test_the_first_weights_are_kept_and_not_made_again(data, tmp_path):
    """An experiment goes on from the file, whatever a later version would draw."""
    stages = {"source_only": Stage(supervised), "adapted": Stage(supervised, start="first")}
    with pytest.raises(KeyError):  # ends before its second stage begins
        broken = replace(stages["adapted"], prepare=lambda network: {}["no"])
        run(recipe(**stages | {"adapted": broken}), data, Options(out=tmp_path))
    first = tmp_path / "source_only" / "first.keras"
    network = keras.saving.load_model(first, compile=False)
    network.set_weights([1.5 * w for w in network.get_weights()])
    network.save(first)
    run(recipe(**stages), data, Options(out=tmp_path))
    norm = np.sqrt(sum(np.square(w, dtype="float64").sum() for w in network.get_weights()))
    assert starts(tmp_path).endswith(f"norm {norm:.7g}")


def test_other_settings_are_refused_in_a_folder_that_holds_a_run(data, tmp_path):
    run(recipe(), data, Options(out=tmp_path))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="other settings .*batch_size: 2 there, 3 now"):
        run(replace(recipe(), batch_size=3), data, Options(out=tmp_path))
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.slow
def test_more_steps_extend_what_no_later_stage_has_begun_from(data, tmp_path, capsys):
    """Source only stays what adapted began from; the last stage goes on."""
    stages = {"source_only": Stage(supervised), "adapted": Stage(supervised, start="source_only")}
    first = run(recipe(**stages), data, Options(out=tmp_path))["source_only"]
    runs = run(replace(recipe(**stages), steps=3), data, Options(out=tmp_path))
    assert "source_only keeps its 2 steps: adapted has begun from it" in capsys.readouterr().out
    np.testing.assert_array_equal(weights(first.network), weights(runs["source_only"].network))
    steps = [json.loads((r.path / "config.json").read_text())["steps"] for r in runs.values()]
    assert steps == [2, 3]


@pytest.fixture
def run_4(request):
    """The session's run of four steps, whose own name is that of the function under test."""
    return request.getfixturevalue("run")


def test_a_given_run_is_adapted_and_no_label_of_the_target_is_read(run_4, data, tmp_path, capsys):
    """In the precision asked for; masks of the target are not even prepared."""
    adapted = Stage(distil, ("source", "target"), start="source_only")
    started = replace(recipe(adapted=adapted), given={"source_only": run_4})
    runs = run(started, data, Options(out=tmp_path, precision="mixed_bfloat16"))
    assert "has not trained on this study's source cases" in capsys.readouterr().err
    assert list(runs) == ["source_only", "adapted"] and not (tmp_path / "source_only").exists()
    assert runs["adapted"].network.get_layer("features").compute_dtype == "bfloat16"
    store, parts, held = tmp_path / "prepared", data.parts, len(data.tests["source, test"])
    labels = len(parts["source"]) + held + len(parts["target"])  # the target's: source only's own
    assert len(list(store.glob("*.label"))) == labels
    images = len(parts["source"]) + len(parts["target"]) + 3 * held  # in the target's style, twice
    assert len(list(store.glob("*.image"))) == images


def test_a_given_run_reads_masks_as_this_study_encodes_them(run_4, data, tmp_path):
    """Here cup and rim have each other's values."""
    swapped = np.arange(256, dtype="uint8")
    swapped[[128, 255]] = 255, 128
    cases, files = data.parts["source"], []
    for row in cases.itertuples():
        labels = data.task.decode(data.task.one_hot(read_mask(row.mask, data.task)))
        files.append(str(write_picture(tmp_path / f"{row.case}.png", swapped[labels])))
    task = replace(data.task, values={"cup": (128,), "disc": (128, 255)})
    there = replace(recipe(), stages={}, given={"source_only": run_4})
    here = train(there, replace(data, task=task), Options(out=tmp_path))["source_only"]
    pairs = zip(
        labelled_inputs(run_4, cases, "there"),
        labelled_inputs(here, cases.assign(mask=files), "here"),
        strict=True,
    )
    for (_, _, expected), (_, _, found) in pairs:
        np.testing.assert_array_equal(found, expected)


REFUSED = {
    "a run of other classes": (
        {"task": km.Task(("disc", "cup"), True, {"disc": (128, 255), "cup": (255,)})},
        {}, r"--init .*: classes \(\('cup', 'disc'\)",
    ),
    "a run on another grid": (
        {}, {"preprocessing": km.Preprocessing(size=(48, 48))}, "--init .*: preprocessing",
    ),
    "a run of another network": (
        {}, {"network": partial(km.models.AERUNet, filters=(8, 16))},
        r"--init .*: a network of 2,104 parameters, expected 7,372",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_does_not_fit_is_no_start(name, run_4, data, tmp_path):
    of_data, of_recipe, message = REFUSED[name]
    adapted = Stage(distil, ("source", "target"), start="source_only")
    started = replace(recipe(adapted=adapted), given={"source_only": run_4}, **of_recipe)
    with pytest.raises(ValueError, match=message):
        run(started, replace(data, **of_data), Options(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        (Stage(supervised, ("oracle",)), "oracle"),
        (Stage(supervised, keep={"keep": "best:dice"}), "validation"),
    ],
)
def test_a_part_that_the_data_do_not_have_is_named(data, tmp_path, stage, missing):
    with pytest.raises(ValueError, match=f"stage 'alone' uses .*{missing}.*; the data have"):
        run(recipe(alone=stage), data, Options(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("uses", [(), ("source", "few"), ("target", "taught"), ("source", "test")])
def test_parts_that_no_batch_can_hold_together(uses):
    with pytest.raises(ValueError, match="expected one of"):
        Stage(supervised, uses)


def test_a_checkpoint_that_does_not_fit_is_refused_before_data_are_prepared(data, tmp_path):
    def refuse(network):
        raise ValueError("another network's")

    with pytest.raises(ValueError, match="another network's"):
        run(recipe(alone=Stage(supervised, prepare=refuse)), data, Options(out=tmp_path))
    assert not list(tmp_path.rglob("*.image"))


def test_a_batch_that_no_disk_can_hold_is_refused(data, tmp_path):
    wide = recipe(km.Preprocessing(size=(2**22, 2**22)))
    wide = replace(wide, network=lambda shape, channels: network((32, 32, 3), channels))
    with pytest.raises(ValueError, match="the run needs about .* are free"):
        announce(wide, data, Options(out=tmp_path / "new" / "out"))
    assert not (tmp_path / "new").exists()
