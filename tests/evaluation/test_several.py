"""Several runs: paired by case whatever their order, tested as scipy does, corrected by Holm."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from keras_meduda.evaluation.statistics import holm


def table(dice, groups=None):
    """Case metrics of one class."""
    names = [f"c{i:02d}" for i in range(len(dice))]
    return pd.DataFrame(
        {"domain": "d", "case": names, "group": groups or names, "class": "cup", "dice": dice,
         "hd95": 1.0, "prediction_empty": False, "reference_empty": False}
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Folders of three runs on ten cases, as trainings and evaluations leave them."""
    rng = np.random.default_rng(0)
    dice = {name: rng.uniform(0.6 + 0.1 * i, 0.9, 10) for i, name in enumerate("abc")}
    for name, values in dice.items():
        write(tmp_path / name, table(values).sample(frac=1, random_state=1))
    return tmp_path, dice


def write(folder, frame, evaluation="test", **config):
    place = folder / "evaluation" / evaluation
    place.mkdir(parents=True)
    frame.to_csv(place / "cases.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"task": {"unit": "px"}, **config}))


def test_holm_by_hand():
    """m = 3: 3 · 0.01, 2 · 0.02, then no smaller than before; None does not count."""
    np.testing.assert_allclose(holm([0.02, 0.01, 0.03]), [0.04, 0.03, 0.04])
    assert holm([None, 0.5]) == [None, 0.5] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_compare_pairs_by_case_and_tests_as_scipy_does(meduda, runs):
    folder, dice = runs
    out = folder / "out"
    code, said, error = meduda("compare", *(folder / name for name in "abc"), "--out", out)
    assert code == 0 and "p, Holm" in said, error
    tests = pd.read_csv(out / "compare.csv")
    tests = tests[tests["metric"] == "dice"].set_index(["run", "against"])
    assert set(tests.index) == {("b", "a"), ("c", "a"), ("c", "b")}
    for (run, against), row in tests.iterrows():
        difference = dice[run] - dice[against]
        np.testing.assert_allclose(row["difference"], difference.mean(), rtol=1e-5)
        np.testing.assert_allclose(row["p"], wilcoxon(difference).pvalue, rtol=1e-5)
        assert row["low"] < row["difference"] < row["high"]
    np.testing.assert_allclose(tests["p_holm"], holm(tests["p"].tolist()), rtol=1e-5)
    page = (out / "compare.html").read_text("utf-8")
    assert "Wilcoxon" in page and "10 cases of 10 groups" in page
    assert "first weights" not in page + said  # all began alike


def test_figures_of_different_starts_are_told_apart(meduda, runs):
    folder, dice = runs
    write(folder / "pretrained" / "seed_0", table(dice["c"]), weights="imagenet, resnet50")
    write(folder / "pretrained" / "seed_1", table(dice["c"]), weights="imagenet, resnet50")
    out = folder / "out"
    code, said, error = meduda("compare", folder / "a", folder / "pretrained", "--out", out)
    assert code == 0, error
    page = (out / "compare.html").read_text("utf-8")
    for run, start in (("a", "random"), ("pretrained", "imagenet, resnet50")):
        assert f"{run}: first weights {start}\n" in said
        assert f"test, first weights {start}" in page


def test_a_folder_of_seeds_is_one_run_whose_cases_are_means(meduda, runs):
    folder, dice = runs
    for beside in ("source", "oracle", "test_on_source"):  # of which none is the network's own
        write(folder / "a", table(dice["b"]), beside)
    write(folder / "many" / "seed_0", table(dice["a"] - 0.1))
    write(folder / "many" / "seed_1", table(dice["a"] + 0.1))
    code, _, error = meduda("compare", folder / "a", folder / "many", "--out", folder / "out")
    assert code == 0, error
    tests = pd.read_csv(folder / "out" / "compare.csv")
    np.testing.assert_allclose(tests["difference"], 0, atol=1e-9)


def test_cases_that_a_run_lacks_are_left_out_and_few_groups_get_no_p(meduda, runs):
    folder, dice = runs
    write(folder / "few", table(dice["a"][:4] + 0.05))
    code, said, _ = meduda("compare", folder / "a", folder / "few", "--out", folder / "out")
    assert code == 0 and "at least 6 are needed" in said
    page = (folder / "out" / "compare.html").read_text("utf-8")
    assert "4 cases of 4 groups" in page and "6 other cases of a are left out" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}/a"], "1 run; expected two or more"),
        (["{0}/a", "{0}/nothing"], "there are none: evaluate it first"),
        (["{0}/a", "{0}/a"], "its evaluation test is there twice"),
        (["{0}/a", "{0}/b", "--evaluation", "tset"], "there are test"),
        (["{0}/a", "{0}/b", "{0}/c", "--evaluation", "test", "test"], "names 2 folders of 3 runs"),
        (["{0}/a", "{0}/others"], "no case in common"),
        (["{0}/a", "{0}/grouped"], "cases of one name in different groups"),
    ],
)
def test_what_cannot_be_compared(meduda, runs, words, message):
    folder, dice = runs
    (folder / "nothing").mkdir(exist_ok=True)
    write(folder / "others", table(dice["a"]).assign(domain="other"))
    write(folder / "grouped", table(dice["a"], ["p"] * 10))
    out = folder / "out"
    code, _, error = meduda("compare", *(word.format(folder) for word in words), "--out", out)
    assert code == 2 and message in error and not (out / "compare.html").exists()
