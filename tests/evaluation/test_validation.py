import shutil

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.io import DataError, write_picture
from keras_meduda.evaluation.validation import mean_dice


def test_is_the_mean_of_the_evaluation(run, phantoms):
    cases = km.read_cases(phantoms)[:3]
    expected = km.evaluate(run, cases)["dice"].mean()
    validation = mean_dice(cases, run.task, run.preprocessing)
    assert validation(run.network)["dice"] == pytest.approx(expected, abs=1e-6)


def test_sees_the_weights_of_the_moment(run, phantoms):
    """It is compiled once; what a training changes meanwhile counts."""
    cases = km.read_cases(phantoms)[:2]
    validation, network = mean_dice(cases, run.task, run.preprocessing), run.network
    first, kept = validation(network), network.get_weights()
    bias = network.layers[-1] if network.layers[-1].weights else network.get_layer("logits")
    bias.bias.assign(np.full(bias.bias.shape, -1e3))
    assert validation(network)["dice"] == 0
    network.set_weights(kept)
    assert validation(network) == first


def test_a_corrected_mask_is_another_validation(run, phantoms, tmp_path):
    """So a run whose weights it chooses cannot go on, or end, as if nothing had changed."""
    folder = shutil.copytree(phantoms.parent, tmp_path / "data")
    cases = km.read_cases(folder / "cases.csv")[:2]

    def settings():
        return mean_dice(cases, run.task, run.preprocessing).settings

    before = settings()
    assert settings() == before
    write_picture(cases["mask"].iloc[1], np.zeros((64, 64), "uint8"))
    assert settings() != before


def test_a_mask_of_another_grid_is_named(run, phantoms, tmp_path):
    cases = km.read_cases(phantoms)[:1].copy()
    cases["mask"] = str(write_picture(tmp_path / "small.png", np.zeros((1, 1), "uint8")))
    with pytest.raises(DataError, match=r"small.png: found a mask of shape \(1, 1\)"):
        mean_dice(cases, run.task, run.preprocessing)(run.network)


@pytest.mark.parametrize("masks", [0, 1])
def test_cases_without_masks(run, phantoms, masks):
    cases = km.read_cases(phantoms)[: 2 * masks].assign(mask="")
    with pytest.raises(ValueError, match=f"{2 * masks} cases, {2 * masks} of them without a mask"):
        mean_dice(cases, run.task, run.preprocessing)
