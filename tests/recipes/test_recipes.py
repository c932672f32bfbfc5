"""Every recipe trains, leaves a run folder with a report, and goes on where it stopped."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_meduda.experiment import runner
from keras_meduda.experiment.command_line import recipe_named
from keras_meduda.models.stages import encoder_layers, leaves
from keras_meduda.progress import StepBar

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "keras_meduda" / "recipes"
FILES = {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}
SETTINGS = {  # what a first try leaves out
    "adapt": {"volumes": True, "network": "RatLesNetV2"},
    "aerunet_kd": {"oracle": True},
    "combination": {"method": "foundation_distillation", "network": "UNet"},
    "meddistill": {"oracle": True, "supervised": True, "legacy": True, "teacher": "network"},
    "oct": {"train": "decoder"},
    "ratlesnet": {"flips": "X", "train_size": 4},
    "source_free": {},
    "uda_clr": {"method": "mean_teacher"},
}
STAGES = {
    "adapt": ["source_only", "adapted"],
    "aerunet_kd": ["source_only", "adapted", "oracle"],
    "combination": ["source_only", "adapted"],
    "meddistill": ["teacher", "student", "oracle"],
    "oct": ["trained"],
    "ratlesnet": ["trained"],
    "source_free": ["source_only", "adapted"],
    "uda_clr": ["source_only", "adapted"],
}
FAST = ("aerunet_kd", "oct", "source_free")


def flags_of(name, request, out):
    """The flags of a first try."""
    settings = SETTINGS[name]
    if name == "source_free":
        phantoms, run = (request.getfixturevalue(name) for name in ("phantoms", "run"))
        settings = {"run": run.path, "images": phantoms}
    return recipe_named(name).Flags(smoke=True, out=out, **settings)


def experiment(name, flags):
    """The recipe's runs, trained as the command does."""
    module = recipe_named(name)
    data = module.data(flags)
    return runner.run(module.recipe(flags, data), data, flags)


def histories(out):
    return {path: path.read_text() for path in out.rglob("history.csv")}


def assert_same_weights(run, other):
    for a, b in zip(run.network.weights, other.network.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.parametrize("name", ["adapt", "combination"])
@pytest.mark.parametrize(
    ("start", "normalise"),
    [
        ({"network": "DeepLabV3Plus"}, "minus1_1"),
        ({"network": "UNet", "backbone": "mobilenetv2"}, "minus1_1"),
        ({"network": "UNet"}, "zero_one"),
    ],
)
def test_images_have_the_range_of_the_encoder(name, start, normalise, tmp_path):
    """DeepLabV3+ has an encoder of keras.applications whatever its flags say."""
    module, method = recipe_named(name), {"method": "supervised"} if name == "combination" else {}
    flags = module.Flags(smoke=True, out=tmp_path, **start, **method)
    recipe = module.recipe(flags, module.data(flags))
    assert recipe.preprocessing.normalise == normalise


@pytest.mark.parametrize(
    ("name", "stage", "settings"),
    [
        ("adapt", "adapted", {"network": "UNet"}),
        ("aerunet_kd", "source_only", {}),
        ("aerunet_kd", "adapted", {}),
        ("combination", "adapted", {"network": "UNet", "method": "masked_consistency"}),
        ("combination", "adapted", {"network": "UNet", "method": "beal"}),
        ("meddistill", "oracle", {"oracle": True}),
        ("oct", "trained", {}),
        ("uda_clr", "source_only", {}),
        ("uda_clr", "adapted", {}),
    ],
)
def test_what_trains_and_how_fast_is_asked_in_every_recipe(
    name, stage, settings, batches, tmp_path
):
    def prepared(**flags):
        module = recipe_named(name)
        flags = module.Flags(smoke=True, out=tmp_path, **settings, **flags)
        data = module.data(flags)
        recipe = module.recipe(flags, data)
        network, chosen = recipe.build(data.task), recipe.stages[stage]
        chosen.prepare(network)
        method = chosen.method(network, batches)
        chosen.compile(method, 4)
        return network, method.optimizer.get_config().get("factors")

    network, factors = prepared(train="decoder")
    assert factors is None
    encoder = encoder_layers(network)
    for layer in leaves(network):
        assert layer.trainable == (layer not in encoder) or not layer.weights, layer.name
    network, factors = prepared(encoder_rate=0.1, freeze_batch_norm=True)
    assert factors == [["encoder", 0.1]]
    for layer in leaves(network):
        if layer.weights:
            frozen = isinstance(layer, keras.layers.BatchNormalization)
            assert layer.trainable == (not frozen), layer.name


def test_no_recipe_is_left_out():
    assert set(SETTINGS) == set(STAGES) == set(FILES)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_a_recipe_trains_reports_and_resumes(name, request, tmp_path, capsys):
    flags = flags_of(name, request, tmp_path / "run")
    runs, out = experiment(name, flags), flags.out
    assert list(runs) == STAGES[name]
    assert str(out / "report.html") in capsys.readouterr().out
    trained = [run for run in runs.values() if out in (run.path, *run.path.parents)]
    assert {run.path for run in trained} == {path.parent for path in histories(out)}
    for run in trained:
        assert {"config.json", "network.keras"} <= {path.name for path in run.path.iterdir()}
    deployed = [run for name, run in runs.items() if name != "oracle"][-1]
    assert deployed.path == out, "what gets deployed lies in the run folder itself"
    summaries = [json.loads(path.read_text()) for path in out.rglob("summary.json")]
    assert len(summaries) >= len(runs) and all(summary["n"] > 0 for summary in summaries)
    before = histories(out)
    again = experiment(name, flags)
    assert "step " not in capsys.readouterr().err and histories(out) == before
    for name, run in runs.items():
        assert_same_weights(run, again[name])


def test_an_experiment_that_was_stopped_goes_on_bit_for_bit(request, tmp_path, monkeypatch):
    """Stopped within its second stage, after the first has ended."""
    whole = flags_of("aerunet_kd", request, tmp_path / "whole")
    whole = replace(whole, oracle=False)
    expected = experiment("aerunet_kd", whole)["adapted"]
    stopped = replace(whole, out=tmp_path / "stopped")
    taken, advance = [], StepBar.advance

    def stop(bar, step):
        advance(bar, step)
        taken.append(step)
        if len(taken) == 12 + 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
        here.setattr(StepBar, "advance", stop)
        experiment("aerunet_kd", stopped)
    assert taken[-1] == 7 and not (stopped.out / "network.keras").exists()
    assert_same_weights(experiment("aerunet_kd", stopped)["adapted"], expected)


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_is_short_and_says_what_it_costs(name):
    text = FILES[name].read_text()
    tree = ast.parse(text)
    said = ast.get_docstring(tree)
    assert "\npython scripts/" in said or "\nmeduda " in said, "a command"
    if name not in ("adapt", "combination"):  # which are other recipes' methods
        assert "Paper" in said or "System" in said
    assert re.search("^Time .*[sS]core", said, re.M | re.S)
    (flags,) = (node for node in tree.body if getattr(node, "name", "") == "Flags")
    assert len(text.splitlines()) - (flags.end_lineno - flags.lineno) <= 150, "beside its flags"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("train_*.py")))
def test_a_training_script_is_a_shim(script):
    assert len(script.read_text().splitlines()) <= 60
