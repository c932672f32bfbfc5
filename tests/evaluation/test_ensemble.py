"""Flips and votes stand in for a run."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.evaluation.ensemble import flips, vote
from keras_meduda.run import Run


@pytest.fixture(scope="module")
def volume_run(tmp_path_factory):
    """A network of 8 × 10 × 12 voxels that no training has touched."""
    with km.setup(seed=1):
        network = km.models.UNet((None, None, None, 1), channels=2, filters=(4, 8))
    preprocessing = km.Preprocessing((8, 10, 12), normalise="zscore", channels=1, axes="ZXY")
    task = km.Task(("lesion",), unit="mm")
    return Run(tmp_path_factory.mktemp("run"), network, task, preprocessing)


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(0).normal(size=(10, 12, 8, 1)).astype("float32")


@pytest.mark.parametrize("window", [None, km.SlidingWindow((8, 8, 8), (4, 4, 4))])
def test_flips_commute_with_the_image_along_their_axes_alone(volume_run, volume, window):
    run = flips(replace(volume_run, window=window), "XZ")
    p = km.predict(run, volume)
    for axis, commutes in ((0, True), (1, False), (2, True)):  # of the case: X, Y, Z
        mirrored = np.flip(km.predict(run, np.flip(volume, axis)), axis)
        assert np.allclose(mirrored, p, atol=1e-5) == commutes


def test_flips_are_the_mean_of_probabilities(volume_run, volume):
    plain = km.predict(volume_run, volume)
    mirrored = km.predict(volume_run, volume[:, ::-1])[:, ::-1]
    p = km.predict(flips(volume_run, "Y"), volume)
    np.testing.assert_allclose(p, (plain + mirrored) / 2, atol=1e-6)


def test_flips_of_flips_and_of_votes_are_those_of_the_whole(volume_run, volume):
    both = km.predict(flips(volume_run, "XY"), volume)
    nested = flips(flips(volume_run, "X"), "Y")
    np.testing.assert_allclose(km.predict(nested, volume), both, atol=1e-6)
    other = replace(volume_run, network=km.models.UNet((None,) * 3 + (1,), 2, filters=(4, 8)))
    voted = vote([volume_run, other, other], smallest=1)
    plain = km.predict(voted, volume)
    mirrored = km.predict(voted, volume[:, ::-1])[:, ::-1]
    p = km.predict(flips(voted, "Y"), volume)
    np.testing.assert_allclose(p, (plain + mirrored) / 2, atol=1e-6)


def test_a_window_for_one_call_reaches_the_network(volume_run, volume):
    window = km.SlidingWindow((8, 8, 8))
    p = km.predict(flips(volume_run, ""), volume, window)
    np.testing.assert_array_equal(p, km.predict(volume_run, volume, window))
    voted = km.predict(vote([volume_run], smallest=1), volume, window)
    np.testing.assert_array_equal(voted[..., 1] > 0.5, p[..., 1] > p[..., 0])


@pytest.mark.parametrize("axes", ["W", "XX"])
def test_axes_that_are_none(volume_run, axes):
    with pytest.raises(ValueError, match=f"received axes '{axes}', expected distinct ones"):
        flips(volume_run, axes)


@dataclass(frozen=True)
class Saying(Run):
    """A run that says a mask, whatever it sees."""

    mask: np.ndarray | None = None

    def probabilities(self, x):
        hot = np.stack([~self.mask, self.mask], axis=-1).astype("float32")
        return np.stack([hot] * len(x))


def saying(run, *masks):
    return [Saying(run.path, run.network, run.task, run.preprocessing, mask=m) for m in masks]


def test_a_strict_majority_of_cleaned_masks_wins_and_is_cleaned(volume_run, volume):
    a, b, c = np.zeros((3, 8, 10, 12), bool)
    a[:4] = b[2:6] = True  # two of three in [2:4]
    c[0, 0, :5] = a[0, 0, :5] = True
    a[7, 9, 11] = b[7, 9, 11] = c[7, 9, 11] = True  # an island in each
    voted = vote(saying(volume_run, a, b, c)).probabilities(volume[None, :8, :10])[0]
    expected = np.zeros_like(a)
    expected[2:4] = True
    np.testing.assert_array_equal(voted[..., 1], expected)
    np.testing.assert_array_equal(voted[..., 0], ~expected)


def test_half_is_no_majority(volume_run, volume):
    a = np.ones((8, 10, 12), bool)
    voted = vote(saying(volume_run, a, ~a)).probabilities(volume[None])
    assert voted[..., 0].all() and not voted[..., 1].any()


def test_what_cannot_vote(volume_run):
    with pytest.raises(ValueError, match="expected one or more runs"):
        vote([])
    other = replace(volume_run, task=km.Task(("tumour",)))
    with pytest.raises(ValueError, match="has the task .*tumour.*differ in their networks alone"):
        vote([volume_run, other])


def test_evaluation_takes_both(volume_run, tmp_path):
    """Dice of a vote of one is that of its cleaned mask."""
    import nibabel as nib

    from keras_meduda.evaluation.postprocess import islands_and_holes

    image = np.random.default_rng(2).normal(size=(10, 12, 8)).astype("float32")
    mask = (image > 0.5).astype("uint8")
    for name, array in (("image", image), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    row = {"case": "a", "image": tmp_path / "image.nii.gz", "mask": tmp_path / "mask.nii.gz"}
    cases = km.data.cases.case_table([row])
    voted = km.evaluate(vote([volume_run], smallest=3), cases)
    cleaned = km.evaluate(
        volume_run, cases, masks=lambda p: islands_and_holes(volume_run.task.masks(p), 3)
    )
    assert voted["dice"].tolist() == cleaned["dice"].tolist()
    assert len(km.evaluate(flips(volume_run, "X"), cases)) == 1
