"""Benchmarks: every row of a table can be made again, and a row trains."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import tables

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.experiment import promise
from keras_meduda.experiment.data import Data

STUDIES = ("fundus", "brain", "brain2d", "brain3d", "oct", "shifts", "which_network")


@pytest.mark.parametrize("study", STUDIES)
def test_every_row_that_was_made_is_still_wanted(study):
    module = import_module(study)
    columns = list(getattr(module, "COLUMNS", tables.KEY))
    wanted = [key for key, _ in module.wanted()]
    assert len(set(wanted)) == len(wanted)
    assert set(tables.read(study, columns)[columns].agg(tuple, axis=1)) <= set(wanted)


def test_every_candidate_of_a_choice_is_still_there():
    wanted = {key for key, _ in import_module("oct").candidates()}
    assert set(tables.read("oct_choice")[list(tables.KEY)].agg(tuple, axis=1)) <= wanted


def test_words_choose_rows():
    rows = [(("a", "x", "y", "s", m, str(n)), None) for m in ("one", "two") for n in (0, 1)]
    chosen = [key[4:] for key, _ in tables.asked(rows, ["x-y", "one,two", "1"])]
    assert chosen == [("one", "1"), ("two", "1")]


def test_what_is_chosen_on_is_no_result():
    shifts = import_module("shifts").SHIFTS
    told = ("phantom", "half", "refuge_camera", "fold_0")
    chosen = {shift.name for shift in shifts if any(word in shift.name for word in told)}
    assert {shift.name for shift in shifts if shift.choosing} == chosen


def test_the_readme_shows_the_rows_that_there_are():
    page = import_module("shift_page")
    table = "\n".join(page.readme())
    assert table in (tables.HERE.parent / "README.md").read_text()


PUBLISHED = [  # line of the README, benchmark, network, source, target, method of each column
    (
        "| REFUGE → another camera, AERUNet |", "fundus", "aerunet", "refuge", "refuge_camera",
        ("source_only", "kl_distillation_strong_styled", "oracle"),
    ),
    (
        "| Drishti-GS → REFUGE, AERUNet |", "fundus", "aerunet", "drishti_gs", "refuge",
        ("source_only", "kl_distillation_strong_styled", "oracle"),
    ),
    (
        "| REFUGE → Drishti-GS, AERUNet |", "fundus", "aerunet", "refuge", "drishti_gs",
        ("source_only", "kl_distillation_strong_styled", "oracle"),
    ),
    (
        "| Drishti-GS → REFUGE, UDA_CLR |", "fundus", "deeplabv3plus_mobilenetv2", "drishti_gs",
        "refuge", ("source_only", "category_regularization_styled", "oracle"),
    ),
    (
        "| REFUGE → Drishti-GS, UDA_CLR |", "fundus", "deeplabv3plus_mobilenetv2", "refuge",
        "drishti_gs", ("source_only", "category_regularization_styled", "oracle"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "name", "network", "source", "target", "methods"), PUBLISHED, ids=lambda v: str(v)[:24]
)
def test_the_readme_has_the_figures_of_the_published_systems(
    line, name, network, source, target, methods
):
    """Random starts; the mean over the seeds of the mean over classes, in %."""
    table = tables.read(name, (*tables.KEY, "start")).astype({"value": float})
    readme = (tables.HERE.parent / "README.md").read_text()
    (row,) = (text for text in readme.splitlines() if text.startswith(line))
    shown = [cell.strip() for cell in row.split("|")[2:5]]
    keys = {"network": network, "source": source, "target": target, "start": "random"}
    own = table[(table["metric"] == "dice") & (table[list(keys)] == pd.Series(keys)).all(axis=1)]
    assert shown == [f"{100 * own[own['method'] == m]['value'].mean():.1f}" for m in methods]


def test_what_is_said_of_predicted_dice_is_what_was_measured():
    page, findings = import_module("shift_page"), import_module("shift_findings")
    table = tables.read("shifts", page.COLUMNS).astype({"value": float})
    results = [shift for shift in import_module("shifts").SHIFTS if not shift.choosing]
    predicted = findings.promised(table[table["start"] == "imagenet"], results)
    errors = np.array([abs(line[2] - line[3]) for line in predicted])
    assert round(errors.mean(), 2) == promise.ERROR
    assert round(errors.max(), 2) == promise.LARGEST_ERROR


def test_labels_alone_tell_what_adaptation_is_worth():
    """Of the seeds that every column has: seed 1, without labels, takes no part."""
    findings, (shift, *_) = import_module("shift_findings"), import_module("shifts").SHIFTS
    scores = {"source_only": 0.70, "few_source_5": 0.74, "few_source_10": 0.81, "guard": 0.80}
    scores = {method: {"0": dice} for method, dice in scores.items()}
    scores["source_only"]["1"] = scores["guard"]["1"] = 0.0
    *_, line = findings.few_labels([(shift, scores)])
    assert line.endswith("| source only | 0.700 | 0.740 | 0.810 | – | – | 10 labels |")
    scores["guard"]["0"] = 0.9
    *_, line = findings.few_labels([(shift, scores)])
    assert line.endswith("| more than 10 labels |")


@pytest.fixture
def data(phantoms):
    """The two drawn cameras."""
    task = km.Task(("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
    cases = km.read_cases(phantoms)
    source, target = (cases[cases["domain"] == name] for name in ("camera_a", "camera_b"))
    parts = {"source": source, "target": without_masks(target), "oracle": target}
    return Data(task, parts, {"target, test": target}, "two cameras")


def test_a_row_is_made_once_and_goes_on_from_source_only(data, tmp_path):
    recipe = import_module("fundus").RECIPES["aerunet", "random"]
    small = replace(
        recipe,
        network=lambda shape, channels: km.models.AERUNet(shape, channels, (4, 8)),
        preprocessing=replace(recipe.preprocessing, size=(32, 32)),
        steps=2,
        batch_size=2,
    )

    def make():
        run, minutes = tables.trained(small, data, "kl_distillation_both_styles", tmp_path)
        frame = km.evaluate(run, data.tests["target, test"], data.task)
        return tables.mean_scores(frame), minutes

    key = ("aerunet", "camera_a", "camera_b", "phantoms", "kl_distillation_both_styles", "0")
    for _ in range(2):
        tables.complete(tmp_path / "table", [(key, make)], "a test")
        make = pytest.fail
    assert set(tables.read(tmp_path / "table")["class"]) == {"cup", "disc"}
    weights = km.load(tmp_path / "source_only-0").network.get_weights()
    norm = sum((w.astype("float64") ** 2).sum() for w in weights) ** 0.5
    start = json.loads((tmp_path / f"{key[4]}-0" / "config.json").read_text())["start"]
    assert float(start.split()[-1]) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("method", ["histogram_matching", "target_statistics", "source_free"])
def test_a_row_of_the_shift_benchmark_trains(data, method, monkeypatch, tmp_path):
    shifts = import_module("shifts")
    monkeypatch.setattr(shifts, "WORK", tmp_path)
    flags = {"size": (32,), "steps": 2, "filters": (4, 8), "batch_size": 2}
    names = "camera_a", "camera_b", "phantoms"
    tiny = import_module("shift_cases").Shift(*names, lambda: data, flags)
    values, minutes = shifts.scored(tiny, ("aerunet", "random"), method, 0)
    assert {value[:2] for value in values} >= {("cup", "dice"), ("disc", "dice")}
    assert minutes > 0


def test_the_page_of_speed_is_that_of_its_table():
    benchmark = import_module("benchmark")
    assert benchmark.TABLE.with_suffix(".md").read_text() == benchmark.page(benchmark.read())


def test_goals_of_speed_are_of_parties_that_take_part():
    for work, (_, parties, goals) in import_module("performance_rows").ROWS.items():
        others = {other for _, of in goals.values() for other in of}
        assert {*goals, *others} <= set(parties), work
