from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi

from keras_meduda.data.boundary import boundary_target


def scipys(mask):
    """The definition, by SciPy."""
    band = np.zeros(mask.shape[:-1], bool)
    for m in np.moveaxis(mask > 0, -1, 0):
        band |= ndi.binary_dilation(m, iterations=5) ^ ndi.binary_erosion(m, iterations=5)
    return band, ndi.gaussian_filter(255 * band.astype("uint8"), 3)


def test_numbers_of_uda_clr():
    r = np.hypot(*np.mgrid[-32:32, -32:32])
    mask = np.stack([r <= 8, r <= 16], axis=-1).astype("float32")
    assert scipys(mask)[0].sum() == 1268
    target = boundary_target(mask).numpy()[..., 0]
    assert target.sum(dtype="float64") == pytest.approx(1258.941176, abs=1e-4)
    points = [target.max(), target[32, 32], target[32, 40], target[32, 48]]
    assert points == pytest.approx([0.996078, 0.596078, 0.972549, 0.929412], abs=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_equals_scipy_to_the_bit(seed, rank):
    """Also where the band is saturated, touches the border or is empty, or the blur reaches far."""
    rng = np.random.default_rng(seed)
    size, sigma = rng.integers(5, 80 if rank == 2 else 40, rank), rng.uniform(0, 6)
    smooth = ndi.gaussian_filter(rng.normal(size=(*size, 2)), (*[sigma] * rank, 0))
    mask = (smooth > np.quantile(smooth, rng.uniform())).astype("float32")
    np.testing.assert_array_equal(
        np.rint(255 * boundary_target(mask).numpy()[..., 0]), scipys(mask)[1]
    )


def test_no_class_no_boundary():
    assert not boundary_target(np.zeros((20, 30, 2), "float32")).numpy().any()


def test_batches_make_it_of_the_mask_that_was_moved(batches):
    assert "boundary" not in next(iter(batches.from_step(0)))["source"]
    source = next(iter(replace(batches, boundary=True).from_step(0)))["source"]
    assert source["boundary"].shape == (2, 32, 32, 1)
    for mask, boundary in zip(source["mask"], source["boundary"], strict=True):
        np.testing.assert_array_equal(boundary_target(mask), boundary)
