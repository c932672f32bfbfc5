import nibabel as nib
import numpy as np
import pytest

from keras_meduda.data.cases import case_table, split_cases
from keras_meduda.data.io import DataError
from keras_meduda.data.subset import balanced_subset, lesion_volumes, volume_bins
from keras_meduda.task import Task

STUDY = [0, 0, 0, 1.2, 3.4, 5.1, 7.7, 9, 12.5, 20, 22, 31, 33, 40]


def table(volumes):
    return case_table([{"case": f"{i:02d}", "image": f"{i}.nii"} for i in range(len(volumes))])


def test_bins_are_those_of_the_original_but_for_the_largest():
    """There it is alone in bin 9, out of which none is taken."""
    assert volume_bins(STUDY).tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 3, 5, 5, 7, 7, 8]


def test_equal_volumes_are_one_bin():
    assert len(set(volume_bins([3.0, 3.0, 3.0]))) == 1
    assert len(balanced_subset(table(range(3)), [3.0, 3.0, 3.0], 2)) == 2


@pytest.mark.parametrize("seed", range(5))
def test_every_bin_gives_its_share_and_then_one_a_round(seed):
    chosen = balanced_subset(table(STUDY), STUDY, 8, seed).index
    bins = volume_bins(STUDY)[chosen]
    # One each of the six bins that are not empty, then two of the four that still have some.
    counts = np.bincount(bins, minlength=9)[1:]
    assert counts[[2, 3, 5, 7]].tolist() == [1, 0, 0, 1] and 13 in chosen  # the largest lesion
    assert sorted(counts[[0, 1, 4, 6]]) == [1, 1, 2, 2]


@pytest.mark.parametrize("count", [2, 4])
def test_few_cases_are_not_always_the_smallest(count):
    """Six sizes in six bins: over many seeds each is chosen about as often as the others."""
    draws = [balanced_subset(table(range(6)), range(6), count, seed).index for seed in range(200)]
    shares = np.bincount(np.concatenate(draws), minlength=6) / len(draws)
    np.testing.assert_allclose(shares, count / 6, atol=0.12)


def test_large_subsets_take_a_share_of_every_bin_first():
    volumes = np.repeat(np.arange(8.0), 10)
    chosen = balanced_subset(table(volumes), volumes, 40).index
    assert np.bincount(volumes[chosen].astype(int)).tolist() == [5] * 8
    chosen = balanced_subset(table(volumes), volumes, 27).index
    assert sorted(np.bincount(volumes[chosen].astype(int))) == [3] * 5 + [4] * 3


def test_the_seed_alone_decides_and_the_table_keeps_its_order():
    cases = table(STUDY)
    a, b = (balanced_subset(cases, STUDY, 5, seed=3)["case"].tolist() for _ in range(2))
    assert a == b == sorted(a) and len(set(a)) == 5
    draws = {tuple(balanced_subset(cases, STUDY, 5, seed)["case"]) for seed in range(10)}
    assert len(draws) > 1


def test_all_of_them_is_the_table():
    cases = table(STUDY)
    assert balanced_subset(cases, STUDY, len(STUDY)).equals(cases)


@pytest.mark.parametrize("count", [0, 15])
def test_more_than_there_are(count):
    with pytest.raises(ValueError, match=rf"{count} cases are wanted, 14 with a mask are there"):
        balanced_subset(table(STUDY), STUDY, count)


def write(path, array, spacing):
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def test_volumes_are_in_mm3_whatever_the_orientation(tmp_path):
    mask = np.zeros((4, 5, 6), "uint8")
    mask[1:3, 1:3, 1:3] = 1
    rows = []
    for name, spacing in (("a", (0.1, 0.1, 0.5)), ("b", (-1.0, 2.0, 3.0))):
        image = write(tmp_path / f"{name}.nii", np.ones((4, 5, 6), "float32"), spacing)
        rows.append(
            {"case": name, "image": image, "mask": write(tmp_path / f"{name}_m.nii", mask, spacing)}
        )
    volumes = lesion_volumes(case_table(rows), Task(("lesion",)))
    np.testing.assert_allclose(volumes, [8 * 0.005, 8 * 6.0], rtol=1e-6)


def test_every_case_without_a_mask_is_named(tmp_path):
    image = write(tmp_path / "a.nii", np.ones((4, 4, 4), "float32"), (1, 1, 1))
    rows = [{"case": str(i), "image": image, "mask": ""} for i in range(2)]
    rows.append({"case": "c", "image": image, "mask": tmp_path / "lost.nii"})
    with pytest.raises(DataError) as error:
        lesion_volumes(case_table(rows), Task(("lesion",)))
    found = [problem.found for problem in error.value.problems]
    assert found == ["no mask", "no mask", "no such file"]


def test_the_studys_split_keeps_animals_together():
    rows = [{"case": f"{a}_{t}", "image": "a.nii", "group": a} for a in range(50) for t in range(2)]
    cases = split_cases(case_table(rows), {"train": 0.7, "val": 0.1, "test": 0.2})
    assert cases["split"].value_counts().to_dict() == {"train": 70, "test": 20, "val": 10}
    assert (cases.groupby("group")["split"].nunique() == 1).all()
