"""Brain phantoms: anatomy differs from case to case, contrast from domain to domain."""

import nibabel as nib
import numpy as np
import pytest

from keras_meduda.data.cases import read_cases
from keras_meduda.data.checks import validate
from keras_meduda.data.io import read_image, read_mask
from keras_meduda.data.phantoms import write_brain
from keras_meduda.task import Preprocessing, Task

TUMOUR = Task(("tumour",), unit="mm")
SIZE = (40, 44, 36)
ZSCORE = Preprocessing(SIZE, normalise="zscore_foreground", channels=1, axes="XYZ", fit="crop")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_brain(tmp_path_factory.mktemp("brain"), 6, SIZE, spacing=(1.0, 1.0, 2.5))


@pytest.fixture(scope="module")
def cases(table):
    return read_cases(table)


def voxels(cases, domain):
    """z-scores and labels of the brains of a domain, end to end."""
    images, labels = [], []
    for row in cases[cases["domain"] == domain].itertuples():
        image = read_image(row.image)
        brain = image.array[..., 0] > 0
        images.append(ZSCORE.stored(image.array, image.spacing)[..., 0][brain])
        labels.append(read_mask(row.mask, TUMOUR)[brain])
    return np.concatenate(images), np.concatenate(labels)


def test_the_cases_are_sound_volumes_with_their_header(cases, table):
    assert validate(cases, TUMOUR, channels=1) == []
    assert cases["domain"].value_counts().to_dict() == {"t2": 6, "flair": 6}
    assert cases.groupby("domain")["split"].value_counts().to_dict() == {
        (d, s): n for d in ("t2", "flair") for s, n in (("train", 4), ("test", 2))}
    for row in cases.itertuples():
        assert read_image(row.image).array.shape == (*SIZE, 1)
        assert read_image(row.image).spacing == (1.0, 1.0, 2.5)
        assert nib.aff2axcodes(nib.load(row.image).affine) == ("L", "P", "S")  # as BraTS
    files = {str(path) for path in table.parent.rglob("*.nii.gz")}
    assert files == {*cases["image"], *cases["mask"]}


def test_equal_seeds_give_equal_files_whatever_else_is_drawn(table, tmp_path):
    again = write_brain(tmp_path / "a", 2, SIZE, domains=("flair",), spacing=(1.0, 1.0, 2.5))
    other = write_brain(tmp_path / "b", 2, SIZE, seed=1, domains=("flair",))
    for name in ("images/flair_001.nii.gz", "masks/flair_001.nii.gz"):
        assert (again.parent / name).read_bytes() == (table.parent / name).read_bytes()
        assert (other.parent / name).read_bytes() != (table.parent / name).read_bytes()


def test_no_two_brains_or_tumours_are_alike(cases):
    masks = [read_mask(mask, TUMOUR) for mask in cases["mask"]]
    brains = [read_image(image).array[..., 0] > 0 for image in cases["image"]]
    for found in (masks, brains):
        assert all((a != b).any() for i, a in enumerate(found) for b in found[:i])
    share = np.array([m.sum() / b.sum() for m, b in zip(masks, brains, strict=True)])
    assert 0.005 < share.min() and share.max() < 0.25
    assert all(brain[mask == 1].all() for mask, brain in zip(masks, brains, strict=True))


def test_fluid_is_bright_in_one_contrast_and_dark_in_the_other(cases):
    """The tumour is bright in both; the brightest of the healthy brain is so in T2 alone."""
    for domain, fluid_is_brighter in (("t2", True), ("flair", False)):
        values, labels = voxels(cases, domain)
        healthy, tumour = values[labels == 0], values[labels == 1]
        assert tumour.mean() > healthy.mean() + 1
        assert (np.percentile(healthy, 99) > tumour.mean()) == fluid_is_brighter
        assert (np.percentile(healthy, 2) < -2) != fluid_is_brighter


def test_grey_values_that_mean_tumour_in_one_contrast_do_not_in_the_other(cases):
    """The range of grey values that finds most of the tumour in FLAIR, taken to T2."""
    levels = np.linspace(-1, 4, 26)

    def dice(values, labels, low, high):
        found = (values > low) & (values < high)
        return 2 * (found & (labels == 1)).sum() / (found.sum() + labels.sum())

    flair, t2 = voxels(cases, "flair"), voxels(cases, "t2")
    ranges = [(low, high) for low in levels for high in levels if low < high]
    best = max(ranges, key=lambda ends: dice(*flair, *ends))
    assert 0.6 < dice(*flair, *best) < 0.8 and dice(*t2, *best) < dice(*flair, *best) - 0.2


@pytest.mark.parametrize(("domain", "lesion", "spread"), [("t2", 1.2, 0.85), ("flair", 1.9, 0.95)])
def test_tumours_look_as_in_patients(tmp_path, domain, lesion, spread):
    """z-scores within the brain, means of 12 subjects of BraTS 2021."""
    found = read_cases(write_brain(tmp_path, 12, SIZE, domains=(domain,)))
    values, labels = voxels(found, domain)
    assert labels.mean() == pytest.approx(0.09, abs=0.02)
    assert values[labels == 1].mean() == pytest.approx(lesion, abs=0.35)
    assert values[labels == 1].std() == pytest.approx(spread, abs=0.2)


def test_an_unknown_contrast_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"knows the domains \['t2', 'flair'\], received \['t1'\]"):
        write_brain(tmp_path, domains=("t2", "t1"))
