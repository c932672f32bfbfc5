"""The guard at the end of an experiment: its decision is kept, and no target label reaches it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.guarding import guard
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.styles import Styles
from keras_meduda.run import chosen


def styles(options):
    return Styles(options.out / "prepared", options.seed)


def parts(phantoms, run, labelled=True):
    cases = km.read_cases(phantoms)
    source, target = (cases[cases["domain"] == name] for name in ("camera_a", "camera_b"))
    held = source if labelled else without_masks(source)
    return Data(run.task, {"target": without_masks(target)}, {"source, test": held}, "phantoms")


def test_few_target_cases_keep_source_only_as_a_run_of_its_own(phantoms, run, tmp_path):
    data, options = parts(phantoms, run), Options(out=tmp_path, smoke=True)
    decision = guard(data, options, {"source_only": run, "adapted": run}, styles(options))
    assert decision.a == 0 and "below 8" in decision.reason, "six target cases"
    kept = km.load(tmp_path / "guarded")
    for a, b in zip(kept.network.get_weights(), run.network.get_weights(), strict=True):
        assert (a == b).all()
    assert km.load(tmp_path).path == tmp_path / "guarded", "what every command takes"
    written = json.loads((tmp_path / "guarded" / "decision.json").read_text())
    assert (written["a"], written["reason"]) == (0.0, decision.reason)


def test_without_held_out_source_masks_nothing_is_decided(phantoms, run, tmp_path):
    data, options = parts(phantoms, run, labelled=False), Options(out=tmp_path, smoke=True)
    assert guard(data, options, {"source_only": run, "adapted": run}, styles(options)) is None
    assert guard(parts(phantoms, run), options, {"source_only": run}, styles(options)) is None
    assert not (tmp_path / "guarded").exists()


def test_a_decision_that_ends_early_is_not_taken(phantoms, run, tmp_path):
    """The network comes last: a folder without settings or cases has none."""
    data, options = parts(phantoms, run), Options(out=tmp_path, smoke=True)
    broken = replace(run, path=tmp_path / "no settings")
    with pytest.raises(FileNotFoundError):
        guard(data, options, {"source_only": run, "adapted": broken}, styles(options))
    assert chosen(tmp_path) == tmp_path


def test_masks_of_the_target_are_never_opened(phantoms, run, tmp_path):
    folder = shutil.copytree(phantoms.parent, tmp_path / "data")
    cases = km.read_cases(folder / "cases.csv")
    for path in cases["mask"][cases["domain"] == "camera_b"]:
        Path(path).write_bytes(b"not an image")
    data = parts(folder / "cases.csv", run)
    options = Options(out=tmp_path / "out", smoke=True)
    assert guard(data, options, {"source_only": run, "adapted": run}, styles(options))
