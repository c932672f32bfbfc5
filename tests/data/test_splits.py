"""Splits by whole groups: what trains, chooses and is tested."""

import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.splits import in_folds, in_three, unseen


def test_three_parts():
    cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(40)])
    parts = in_three(cases)["split"].value_counts().to_dict()
    assert parts == {"train": 28, "val": 4, "test": 8}
    halved = cases.assign(split=["train"] * 32 + ["test"] * 8)
    split = in_three(halved)
    assert split["split"].value_counts().to_dict() == {"train": 28, "val": 4, "test": 8}
    assert (split.loc[32:, "split"] == "test").all()
    with pytest.raises(ValueError, match="2 cases, of which none is of split test or val"):
        in_three(cases[:2].assign(split="train"))


def test_a_split_of_some_of_the_cases_is_refused():
    cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(5)])
    with pytest.raises(ValueError, match="2 of 5 cases are of no split"):
        in_three(cases.assign(split=["train", "val", "test", "", ""]))


def test_contrasts_of_one_patient_stay_together():
    rows = [{"case": f"{i}", "domain": d, "image": "a.nii"} for i in range(20) for d in ("t2", "f")]
    parts = in_three(case_table(rows)).groupby("group")["split"].nunique()
    assert (parts == 1).all()


def test_nothing_left_to_test_is_an_error():
    cases = case_table([{"case": "a", "domain": "flair", "image": "a.nii"}])
    with pytest.raises(ValueError, match="flair: 1 cases with a mask, none of a group that does"):
        unseen(cases, cases)


def test_a_patient_who_trains_is_not_tested_under_another_name():
    rows = [{"case": f"{d}{i}", "domain": d, "group": i, "image": "a.nii"}
            for d in "ft" for i in range(3)]  # fmt: skip
    cases = case_table(rows)
    assert unseen(cases[cases["domain"] == "t"], cases[:2])["case"].tolist() == ["t2"]


def test_folds_hold_out_what_is_named_test_and_say_when_groups_are_too_few(capsys):
    rows = [{"case": f"{i}", "group": f"{i // 2}", "image": "a.nii"} for i in range(12)]
    cases = case_table(rows)
    held = cases.assign(split=["test"] * 4 + ["train"] * 8)
    assert set(in_folds(held, 2, 0)["case"]) == {str(i) for i in range(4, 12)}
    assert "4 of 12 cases, of split 'test', are left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="12 cases of 6 groups in domain 'unknown' leave a fold"):
        in_folds(cases, 7, 0)
