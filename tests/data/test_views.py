"""Which change reaches which view of a batch."""

import numpy as np
import pytest

from keras_meduda.data.augment import Geometry, Photometry
from keras_meduda.data.boundary import boundary_target
from keras_meduda.data.cases import case_table
from keras_meduda.data.io import write_picture
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.task import Preprocessing, Task

STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
TASK = Task(("liver", "spleen"), values={"liver": (128,), "spleen": (255,)})


@pytest.fixture
def data(tmp_path):
    """Three pictures of noise, each with a square of liver."""
    rng, rows = np.random.default_rng(0), []
    mask = np.zeros((16, 12), "uint8")
    mask[4:9, 3:8] = 128
    for i in range(3):
        image = rng.integers(90, 110, (16, 12, 3)).astype("uint8")
        image = write_picture(tmp_path / f"{i}.png", image)
        file = write_picture(tmp_path / f"m{i}.png", mask)
        rows.append({"case": i, "image": image, "mask": file})
    small = Preprocessing(size=(16, 12))
    return prepare(case_table(rows), TASK, small, tmp_path / "store", labels=True)


def batch(data, geometry=STILL, **settings):
    batches = Batches(3, source=data, target=data, geometry=geometry, **settings)
    return next(batches.from_step(0).as_numpy_iterator())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("source_photometry", {"source/image"}),
        ("photometry", {"target/strong"}),
        ("target_photometry", {"target/image", "target/strong"}),
    ],
)
def test_each_photometry_reaches_its_views_and_no_others(data, name, changed):
    plain = batch(data, photometry=None)
    found = batch(data, **{"photometry": None, name: Photometry(probability=1.0)})
    assert changed == {
        f"{half}/{view}"
        for half, views in plain.items()
        for view, x in views.items()
        if not np.array_equal(x, found[half][view])
    }


def test_background_has_no_boundary(data):
    source = batch(data, boundary=True)["source"]
    expected = boundary_target(source["mask"][0, ..., 1:])
    np.testing.assert_array_equal(source["boundary"][0], expected)


def test_source_and_target_move_on_their_own(data):
    moved = batch(data, geometry=Geometry(), photometry=None)
    sums = ({round(float(abs(x).sum()), 2) for x in moved[half]["image"]} for half in moved)
    assert not set.intersection(*sums)


def test_twins_are_part_of_the_fingerprint(data, tmp_path):
    assert add_styles(data, data, tmp_path / "store").fingerprint != data.fingerprint
