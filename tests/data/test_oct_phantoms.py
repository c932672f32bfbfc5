"""OCT phantoms: what is drawn is what the mask says, and subjects stay together."""

import numpy as np
import pytest

from keras_meduda.data.cases import read_cases
from keras_meduda.data.checks import validate
from keras_meduda.data.io import read_image, read_mask
from keras_meduda.data.phantoms import write_oct
from keras_meduda.task import Task

FLUID = Task(("fluid",))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return read_cases(write_oct(tmp_path_factory.mktemp("oct"), subjects=6, scans=6, size=64))


def test_the_table_is_valid(cases):
    assert not validate(cases, FLUID) and len(cases) == 36
    parts = {part: set(rows["group"]) for part, rows in cases.groupby("split")}
    assert [len(parts[part]) for part in ("train", "test")] == [4, 2]


def test_fluid_is_dark_and_rare_and_in_two_scans_of_three(cases):
    areas = []
    for row in cases.itertuples():
        image, mask = read_image(row.image).array[..., 0], read_mask(row.mask, FLUID) > 0
        areas.append(mask.mean())
        if mask.any():
            above = np.roll(mask, -6, axis=0) & ~mask  # tissue over a pocket
            assert image[mask].mean() < 0.6 * image[above].mean()
    assert np.count_nonzero(areas) == 24 and 0.005 < np.mean(areas) < 0.05


def test_equal_seeds_give_equal_files(tmp_path):
    folders = [
        write_oct(tmp_path / name, 2, 2, size=32, seed=s).parent
        for name, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    contents = [[p.read_bytes() for p in sorted(f.rglob("*.*"))] for f in folders]
    assert contents[0] == contents[1] != contents[2]
