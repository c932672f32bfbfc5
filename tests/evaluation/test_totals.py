"""Dice and IoU of a whole data set."""

import numpy as np
import pytest

from keras_meduda.evaluation.metrics import case_metrics, totals


def maps(seed, count=3, classes=3, shape=(9, 11)):
    return np.random.default_rng(seed).integers(0, classes, (count, *shape))


def test_of_all_images_laid_side_by_side():
    """Counting over images is counting in one large image; each class is then an ordinary case."""
    p, r = maps(0), maps(1)
    result = totals(zip(p, r, strict=True), ["a", "b"])
    for label, name in enumerate(("background", "a", "b")):
        case = case_metrics(p.ravel() == label, r.ravel() == label, spacing=(1,))
        assert result["dice"][name] == pytest.approx(case["dice"])
        assert result["iou"][name] == pytest.approx(case["iou"])
    assert result["mdice"] == pytest.approx(np.mean(list(result["dice"].values())))
    assert result["miou"] == pytest.approx(np.mean(list(result["iou"].values())))


def test_rows_of_the_published_table_are_means_with_the_background():
    """Dice 99.76 and 68.83 give 84.30: found again from pixel counts that have these."""
    fluid, missed, extra = 5217, 2362, 2362
    r = np.repeat([1, 1, 0, 0], [fluid, missed, extra, 979_850])
    p = np.repeat([1, 0, 1, 0], [fluid, missed, extra, 979_850])
    result = totals([(p, r)], ["fluid"])
    assert 100 * result["dice"]["background"] == pytest.approx(99.76, abs=0.005)
    assert 100 * result["dice"]["fluid"] == pytest.approx(68.83, abs=0.01)
    assert 100 * result["mdice"] == pytest.approx(84.30, abs=0.01)
    assert 100 * result["miou"] == pytest.approx(76.00, abs=0.02)


def test_a_class_that_is_nowhere_is_left_out():
    p = np.array([[0, 0, 1]])
    result = totals([(p, p)], ["a", "b"])
    assert np.isnan(result["dice"]["b"]) and result["mdice"] == result["miou"] == 1


def test_images_without_fluid_count_as_background():
    empty = np.zeros((4, 4), int)
    result = totals([(empty, empty), (empty + 1, empty + 1)], ["fluid"])
    assert result["mdice"] == 1
    missed = totals([(empty, empty), (empty, empty + 1)], ["fluid"])
    assert missed["dice"]["fluid"] == 0 and missed["iou"]["background"] == 0.5


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no images"),
        ([(np.zeros((2, 2)), np.zeros((2, 3)))], r"shape \(2, 2\) and .* \(2, 3\), expected equal"),
        ([(np.full((2, 2), 2), np.zeros((2, 2), int))], "label 2, expected at most 1"),
    ],
)
def test_what_cannot_be_counted(pairs, message):
    with pytest.raises(ValueError, match=message):
        totals(pairs, ["fluid"])
