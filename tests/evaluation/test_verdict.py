"""A report in plain sentences: what is said of which figures, and what is to be looked at first."""

import numpy as np
import pandas as pd
import pytest

from keras_meduda.evaluation.report import source_alarms
from keras_meduda.evaluation.report.tables import compare
from keras_meduda.evaluation.report.verdict import alarms, label_free_verdict, verdict

LOW, HIGH = np.linspace(0.5, 0.6, 8), np.linspace(0.7, 0.9, 8)


def frame(dice, classes=("cup",), groups=None):
    """Case metrics: a row a case and class, all with the Dice of their case."""
    cases = [f"c{i}" for i in range(len(dice))]
    rows = pd.DataFrame({"domain": "t", "case": cases, "group": groups or cases, "dice": dice})
    rows = rows.assign(hd95=1.0, prediction_empty=False, reference_empty=False)
    return pd.concat([rows.assign(**{"class": name}) for name in classes])


@pytest.mark.parametrize(
    ("dice", "said"),
    [
        (0.95, "agree closely"), (0.8, "in most places"), (0.6, "in part"),
        (0.2, "disagree"), (0.01, "next to nothing in common"),
    ],
)  # fmt: skip
def test_a_dice_is_put_into_words(dice, said):
    first, last = verdict("adapted", frame([dice] * 8))
    assert said in first and f"{100 * dice:.1f} %" in first
    assert last.startswith("The worst of 8 cases is c0") and ("8 lie below" in last) == (dice < 0.5)


def test_few_groups_and_the_weakest_class_are_named():
    found = frame([0.9, 0.8], ("cup", "disc"), ["p", "p"])
    found.loc[found["class"] == "cup", "dice"] -= 0.3
    first, last = verdict("net", found)
    assert "lowest in cup with 55.0 %" in first and "1 group says little about others" in last


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (LOW, HIGH, "raised the mean Dice from 55.0 % to 80.0 % (p 0.0078"),
        (HIGH, LOW, "lowered the mean Dice from 80.0 % to 55.0 %"),
        (np.full(8, 0.5), 0.5 + 0.1 * (-1.0) ** np.arange(8), "chance alone may do that"),
        (np.full(3, 0.5), np.full(3, 0.6), "3 groups, too few for a test"),
        (LOW, LOW, "stays as source only has it, 55.0 %"),
    ],
)
def test_an_adaptation_is_said_to_gain_only_where_it_did(tmp_path, before, after, said):
    frames = {"source_only": frame(before), "adapted": frame(after)}
    sentence = verdict("adapted", frames["adapted"], compare(tmp_path, frames))[0]
    assert said in sentence
    assert len(verdict("adapted", frames["adapted"], compare(tmp_path, frames))) <= 3


def test_what_is_broken_comes_first_and_what_is_not_is_not_named():
    assert alarms("net", frame([0.8, 0.9])) == []
    nothing = frame([0.0, 0.1]).assign(prediction_empty=True)
    (low, empty) = alarms("net", nothing)
    assert "mean Dice of net is 5.0 %" in low and "nowhere in 2 of 2 cases" in empty
    assert len(alarms("net", nothing.assign(reference_empty=True))) == 1


def test_a_source_that_was_not_learnt_is_told_from_one_that_was_forgotten():
    """A mask of the whole image has a Dice of 2s / (1 + s), and has learnt nothing."""
    good, poor, whole = frame([0.9] * 3), frame([0.1] * 3), frame([0.46] * 3)
    assert source_alarms(None) == source_alarms({"source_only": good, "adapted": good}) == []
    assert "did not learn the source" in source_alarms({"a": poor, "b": good})[0]
    assert "b has forgotten" in source_alarms({"a": good, "b": poor})[0]
    assert source_alarms({"a": whole}) == source_alarms({"a": whole}, {"cup": [0.1]}) == []
    assert "cup 46.0 %" in source_alarms({"a": whole}, {"cup": [0.3, 0.3]})[0]


def test_without_labels_the_source_speaks():
    said = label_free_verdict([], "adapted", {"source_only": frame([0.9]), "adapted": frame([0.8])})
    assert len(said) == 3 and "No accuracy" in said[0]
    assert "source only 90.0 %, adapted 80.0 %" in said[1]
    assert "2 things stand out" in label_free_verdict(["a", "b"], "adapted", None)[2]
