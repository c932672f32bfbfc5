import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from keras_meduda.evaluation.report import compare
from keras_meduda.evaluation.report.tables import mean_over_classes
from keras_meduda.evaluation.statistics import bootstrap_ci, gap_closed, paired_test, summarise


def normal(seed, *size):
    return np.random.default_rng(seed).normal(size=size)


def test_bootstrap_covers_the_true_mean_as_often_as_it_says():
    samples = normal(0, 300, 40)
    intervals = [bootstrap_ci(sample, range(40), n=300) for sample in samples]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.98


def test_bootstrap_of_single_cases_is_the_normal_interval():
    sample = normal(1, 400)
    low, high = bootstrap_ci(sample, range(400), n=5000)
    half = 1.96 * sample.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.01)


def test_bootstrap_is_a_function_of_its_seed():
    sample = normal(2, 30)
    assert bootstrap_ci(sample, range(30), seed=3) == bootstrap_ci(sample, range(30), seed=3)
    assert bootstrap_ci(sample, range(30), seed=3) != bootstrap_ci(sample, range(30), seed=4)


def test_bootstrap_resamples_groups():
    one_per_group = normal(3, 20)
    five_per_group, groups = np.repeat(one_per_group, 5), np.repeat(np.arange(20), 5)
    # Five copies of a patient's only value are no new information.
    assert bootstrap_ci(five_per_group, groups) == pytest.approx(
        bootstrap_ci(one_per_group, range(20))
    )
    low, high = bootstrap_ci(five_per_group, np.zeros(100))
    assert low == high == pytest.approx(one_per_group.mean())


def test_bootstrap_weighs_a_group_by_its_cases():
    # Half of the draws of two patients hold one of each, and then the mean is that of the cases.
    low, high = bootstrap_ci([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"], level=0.2)
    assert (low, high) == (0.75, 0.75)


def test_bootstrap_takes_any_statistic():
    sample, groups = normal(4, 60), np.arange(60) // 3
    low, high = bootstrap_ci(sample, groups, np.median)
    assert low < np.median(sample) < high
    # Any function takes the long way, and a mean must arrive where the short way does.
    assert bootstrap_ci(sample, groups, lambda x: x.mean()) == pytest.approx(
        bootstrap_ci(sample, groups)
    )


def test_bootstrap_drops_nan_before_it_draws():
    sample, groups = normal(5, 20), np.arange(20) // 2
    with_nan = np.append(sample, [np.nan, np.nan])
    assert bootstrap_ci(with_nan, np.append(groups, [3, 99])) == bootstrap_ci(sample, groups)
    assert np.isnan(bootstrap_ci([np.nan], ["a"])).all()


def test_bootstrap_interval_grows_with_its_level():
    sample = normal(6, 50)
    low90, high90 = bootstrap_ci(sample, range(50), level=0.90)
    low99, high99 = bootstrap_ci(sample, range(50), level=0.99)
    assert low99 < low90 < high90 < high99


def test_bootstrap_says_what_is_wrong():
    with pytest.raises(ValueError, match="'values': 2, 'groups': 3"):
        bootstrap_ci([1.0, 2.0], ["a", "b", "c"])
    with pytest.raises(ValueError, match="level 95"):
        bootstrap_ci([1.0], ["a"], level=95)


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "case": ["a", "b", "c", "a", "b", "c"],
            "group": [7, 7, 8, 7, 7, 8],
            "class": ["disc", "disc", "disc", "cup", "cup", "cup"],
            "dice": [0.9, 0.8, 1.0, 0.5, 0.0, 1.0],
            "vcdr_error": [np.nan] * 3 + [0.1, np.nan, 0.3],
            "prediction_empty": [False, False, False, False, True, True],
            "reference_empty": [False, False, False, False, False, True],
            "image": "x.png",
        }
    )


def test_summary_of_a_small_table(frame):
    summary = summarise(frame)
    assert (summary["n"], summary["groups"]) == (3, 2)
    assert list(summary["classes"]) == ["disc", "cup"]
    disc, cup = summary["classes"]["disc"], summary["classes"]["cup"]
    assert set(cup) == {"dice", "vcdr_error", "empty"}
    assert disc["dice"]["mean"] == pytest.approx(0.9)
    assert cup["dice"]["median"] == 0.5
    assert disc["dice"]["n"] == 3 and "nan" not in disc["dice"]
    assert cup["dice"]["ci95"] == list(bootstrap_ci([0.5, 0.0, 1.0], [7, 7, 8]))
    assert disc["empty"] == {"both": 0, "prediction_only": 0, "reference_only": 0}
    assert cup["empty"] == {"both": 1, "prediction_only": 1, "reference_only": 0}


def test_a_name_is_unique_within_its_domain_only(frame):
    twin = pd.concat([frame.assign(domain="t1"), frame.assign(domain="t2", dice=0.0)])
    summary = summarise(twin)
    assert (summary["n"], summary["groups"]) == (6, 2)  # one patient in both
    assert summary["classes"]["disc"]["dice"]["mean"] == pytest.approx(0.45)
    assert len(mean_over_classes(twin.assign(hd95=0.0))) == 6
    with pytest.raises(ValueError, match="case 'a' of domain 't1' more than once for class 'disc'"):
        summarise(pd.concat([twin, twin]))


def test_summary_counts_nan_and_holds_none(frame):
    classes = summarise(frame)["classes"]
    cup = classes["cup"]["vcdr_error"]
    assert (cup["n"], cup["nan"]) == (2, 1)
    assert cup["mean"] == pytest.approx(0.2)
    assert classes["disc"]["vcdr_error"] == {
        "mean": None,
        "median": None,
        "ci95": [None, None],
        "n": 0,
        "nan": 3,
    }


def test_summary_survives_json_without_nan(frame):
    summary = summarise(frame)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_does_not_depend_on_the_order_of_cases(frame):
    mixed = summarise(frame.iloc[[4, 1, 0, 5, 3, 2]])
    for name, metrics in summarise(frame)["classes"].items():
        assert mixed["classes"][name]["dice"]["mean"] == pytest.approx(metrics["dice"]["mean"])
        assert mixed["classes"][name]["empty"] == metrics["empty"]


def test_summary_says_what_is_wrong(frame):
    with pytest.raises(ValueError, match="expected .*'group'"):
        summarise(frame.drop(columns="group"))
    with pytest.raises(ValueError, match="case 'b' more than once for class 'disc'"):
        summarise(frame.assign(case=["a", "b", "b", "a", "b", "c"]))


def test_paired_test_is_wilcoxons_on_single_cases():
    a, b = normal(7, 2, 20)
    result = paired_test(a, b, range(20))
    assert result == {
        "difference": pytest.approx(np.mean(a - b)),
        "p_value": pytest.approx(wilcoxon(a, b).pvalue),
        "groups": 20,
    }


def test_paired_test_compares_patients_not_images():
    a, b = normal(8, 2, 10)
    once = paired_test(a, b, range(10))
    copied = paired_test(np.repeat(a, 4), np.repeat(b, 4), np.repeat(range(10), 4))
    assert copied == pytest.approx(once)


def test_paired_test_changes_only_its_sign_when_the_runs_are_swapped():
    a, b = normal(9, 2, 12)
    there, back = paired_test(a, b, range(12)), paired_test(b, a, range(12))
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["p_value"] == pytest.approx(back["p_value"])


def test_paired_test_finds_a_difference_and_only_that():
    base = normal(10, 30)
    assert paired_test(base + 0.5 + 0.1 * normal(11, 30), base, range(30))["p_value"] < 1e-6
    assert paired_test(base + 0.1 * normal(12, 30), base, range(30))["p_value"] > 0.01


def test_paired_test_drops_cases_without_a_value_in_either_run():
    a, b = normal(13, 2, 14)
    missing_a, missing_b = a.copy(), b.copy()
    missing_a[0], missing_b[1] = np.nan, np.nan
    expected = paired_test(a[2:], b[2:], range(2, 14))
    assert paired_test(missing_a, missing_b, range(14)) == pytest.approx(expected)


def test_paired_test_without_a_test_gives_its_reason():
    same = paired_test(np.ones(8), np.ones(8), range(8))
    assert (same["p_value"], same["difference"]) == (1.0, 0.0)
    assert "zero" in same["reason"]
    few = paired_test(np.arange(5), np.zeros(5), range(5))
    assert (few["p_value"], few["groups"]) == (None, 5)
    assert few["difference"] == pytest.approx(2.0)
    assert "at least 6" in few["reason"]
    none = paired_test([np.nan], [1.0], ["a"])
    assert (none["difference"], none["p_value"], none["groups"]) == (None, None, 0)


def test_paired_test_says_what_is_wrong():
    with pytest.raises(ValueError, match="'a': 2, 'b': 3"):
        paired_test([1, 2], [1, 2, 3], ["p", "q"])


def test_gap_closed_is_a_fraction_of_the_way():
    assert gap_closed(0.6, 0.6, 0.8) == 0
    assert gap_closed(0.6, 0.8, 0.8) == 1
    assert gap_closed(0.5, 0.25, 0.75) == -1
    assert gap_closed(-12.0, -6.0, -4.0) == 0.75


@pytest.mark.parametrize("oracle", [0.6, 0.5, np.nan])
def test_gap_closed_is_nan_where_there_was_no_gap(oracle):
    assert np.isnan(gap_closed(0.6, 0.7, oracle))


def scores(dice):
    return pd.DataFrame([
        {"case": case, "group": case, "class": name, "dice": dice, "hd95": 1.0,
         "prediction_empty": name == "cup", "reference_empty": False}
        for case in "abcdefg" for name in ("cup", "disc")
    ])  # fmt: skip


def test_a_comparison_says_who_is_better_and_by_how_much(tmp_path):
    runs = {"source_only": scores(0.5), "adapted": scores(0.6), "oracle": scores(0.9)}
    found = compare(tmp_path, runs)["cup"]
    assert found["gap_closed"] == pytest.approx(0.25)
    assert found["adapted_vs_source_only"]["difference"] == pytest.approx(0.1)


def test_a_case_of_which_one_class_is_empty_is_counted_among_the_empty():
    assert mean_over_classes(scores(0.5))["prediction_empty"].all()
