"""The end of every experiment: with labels scores and one table, without them a page that says so.

Networks are not trained here: a given run stands for each of them.
"""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe
from keras_meduda.experiment.results import evaluate_runs
from keras_meduda.experiment.runner import run as run_recipe
from keras_meduda.experiment.styles import Styles
from keras_meduda.run import chosen
from keras_meduda.run.decided import FEW, GUARDED


@pytest.fixture
def given(run, phantoms):
    """A recipe without a training, and data of two domains."""
    cases = km.read_cases(phantoms)
    source, target = (cases[cases["domain"] == f"camera_{name}"] for name in "ab")

    def part(of, split):
        return of[of["split"] == split]

    data = Data(
        run.task,
        {"source": part(source, "train"), "target": part(target, "train").assign(mask="")},
        {"target, test": part(target, "test"), "source, test": part(source, "test")},
        "phantoms",
    )
    runs = {"source_only": run, "adapted": run, "oracle": run}
    return Recipe("A title", run.preprocessing, stages={}, given=runs), data


def without_masks(data, *headings):
    tests = {
        name: cases.assign(mask="") if name in headings else cases
        for name, cases in data.tests.items()
    }
    return replace(data, tests=tests)


def test_with_labels_there_are_scores_a_comparison_and_a_report(given, tmp_path, capsys):
    recipe, data = given
    run_recipe(recipe, data, Options(out=tmp_path))
    out = capsys.readouterr().out
    for text in ("source only", "adapted", "oracle", "gap closed", "groups", "labels used for"):
        assert text in out, text
    assert f"report: {tmp_path / 'report.html'}" in out
    page = (tmp_path / "report.html").read_text("utf-8")
    head = page[: page.index('<nav aria-label="Sections">')]
    assert "<strong>Decision.</strong> How far to go, decided without target labels: 0" in head
    folders = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert folders == {
        "source_only", "adapted", "guarded", "oracle", "source_only_on_source",
        "adapted_on_source", "guarded_on_source",
    }  # fmt: skip
    for name in folders:
        summary = json.loads((tmp_path / "evaluation" / name / "summary.json").read_text())
        heading = "source, test" if name.endswith("_on_source") else "target, test"
        assert summary["n"] == len(data.tests[heading]) and set(summary["classes"]) == {
            "cup", "disc",
        }  # fmt: skip
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert set(comparison) == {"cup", "disc", "mean"}
    assert comparison["mean"]["decided"]["run"] == "guarded"
    assert "On the target the mean Dice stays as source only has it" in head
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in ("A title", "Worst case", "gap closed", "not read in training"):
        assert text in page, text


@pytest.mark.parametrize("there", ["no labels", "no cases"])
def test_without_target_labels_the_page_says_so(given, tmp_path, capsys, there):
    """The source has labels: its score stands apart, and says first that it was not learnt."""
    recipe, data = given
    if there == "no cases":
        data = replace(data, tests={**data.tests, "target, test": data.parts["target"].iloc[:0]})
    else:
        data = without_masks(data, "target, test")
    run_recipe(recipe, data, Options(out=tmp_path))
    said = "no labels in its test part" if there == "no labels" else "no test cases"
    out = capsys.readouterr().out
    assert f"The target has {said}, so no accuracy can be given." in out
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "no accuracy can be given" in page and "data:image/png" in page
    assert "masks of the source" in page and "Test cases of the source, which have labels" in page
    first = page.split("Look at this first")[1].split("<li>")[1]
    assert first.startswith("source only did not learn the source: Dice of cup")
    table = pd.read_csv(tmp_path / "label_free.csv")
    assert table["disagreement"].between(0, 1).all() and table["entropy"].ge(0).all()
    folders = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert folders == {"source_only_on_source", "guarded_on_source"}, "what was decided for"
    assert not (tmp_path / "comparison.json").exists()


def test_networks_that_an_earlier_call_decided_for_are_not_taken_any_more(given, tmp_path):
    """Few labels and held-out cases were there then, and are not now."""
    recipe, data = given
    for name in (FEW, GUARDED):
        shutil.copytree(recipe.given["adapted"].path, tmp_path / name)
    evaluate = partial(evaluate_runs, recipe, runs=recipe.given, targets=None, began=0.0)
    options = Options(out=tmp_path)
    styles = Styles(tmp_path / "prepared", 0)
    evaluate(data=without_masks(data, "source, test"), options=options, styles=styles)
    assert chosen(tmp_path) == tmp_path


@pytest.mark.parametrize("labelled", [False, True], ids=["no labels", "labels"])
def test_the_decision_is_three_sentences_and_names_whom_to_look_at(
    given, phantoms, tmp_path, labelled
):
    """With 8 held-out patients the page predicts the Dice of each case, and names the lowest."""
    recipe, data = given
    held = km.read_cases(phantoms)
    held = held[held["domain"] == "camera_a"]
    held = pd.concat([held, held]).assign(case=lambda t: [f"held_{i}" for i in range(len(t))])
    held = held.assign(group=held["case"])
    target = pd.concat([data.parts["target"]] * 3).assign(case=lambda t: [*map(str, range(len(t)))])
    tested = data.tests["target, test"] if labelled else target
    tests = {"target, test": tested, "source, test": held}
    data = replace(data, parts={**data.parts, "target": target}, tests=tests)
    copy = replace(recipe.given["adapted"], path=shutil.copytree(
        recipe.given["adapted"].path, tmp_path / "adapted"
    ))  # fmt: skip
    recipe = replace(recipe, given={"source_only": copy, "adapted": copy})
    run_recipe(recipe, data, Options(out=tmp_path / "out", smoke=True))
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    said = page.split("<strong>Decision.</strong> ")[1].split("</p>")[0]
    assert said.count(". ") == 2 and said.endswith("their predicted Dice is lowest.")
    table = pd.read_csv(tmp_path / "out" / "evaluation" / "predicted_dice.csv", dtype={"case": str})
    lowest = table.groupby("case", sort=False)["dice"].mean().nsmallest(3).index
    assert f"Look first at {', '.join(lowest)}:" in said
    assert 'href="evaluation/predicted_dice.csv"' in page
    row = table.iloc[0]
    shown = f"{100 * row['dice']:.0f} ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    rows = page.split('id="case-table"')[1].split("</table>")[0].split("<tr>")
    (own,) = (r for r in rows if f">{row['case']}<" in r and f">{row['class']}<" in r)
    assert shown in own
    source = [r for r in rows if ">held_0<" in r]
    assert len(source) == (2 if labelled else 0) and all("to" not in r for r in source)


def test_what_is_deployed_is_scored_as_it_is_deployed(given, tmp_path):
    """Masks and votes of a recipe are those of its last run, and of no other."""
    recipe, data = given
    nothing = lambda p: np.zeros(p.shape, bool)  # noqa: E731
    run_recipe(replace(recipe, masks=nothing), data, Options(out=tmp_path))

    def empty(name):
        return pd.read_csv(tmp_path / "evaluation" / name / "cases.csv")["prediction_empty"]

    assert empty("adapted").all() and empty("adapted_on_source").all()
    assert not empty("source_only").all() and not empty("oracle").all()


def test_notes_end_the_report_and_may_write_beside_the_scores(given, tmp_path, capsys):
    recipe, data = given

    def notes(run, cases, frame, folder):
        (folder / "own.txt").write_text("mine")
        yield f"{len(cases)} cases, {len(frame)} rows."

    run_recipe(replace(recipe, notes=notes), data, Options(out=tmp_path))
    written = {path.parent.name for path in tmp_path.rglob("own.txt")}
    assert written == {"adapted", "adapted_on_source"}
    count = len(data.tests["target, test"])
    for said in (capsys.readouterr().out, (tmp_path / "report.html").read_text("utf-8")):
        assert f"{count} cases, {2 * count} rows." in said
