import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from keras_meduda.evaluation.metrics import (
    case_metrics,
    surface_metrics,
    vertical_cup_to_disc_ratio,
)


def blob(seed, shape):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return noise > np.quantile(noise, 0.8)


def ellipsoid(shape, centre, radii):
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True)) <= 1


def points(shape, *indices):
    mask = np.zeros(shape, bool)
    for index in indices:
        mask[index] = True
    return mask


def with_points(mask, *indices):
    return mask | points(mask.shape, *indices)


BLOB = blob(0, (24, 20, 18))
BALL = ellipsoid((30, 28, 26), (14, 13, 12), (8, 7, 6))
BLOB_BY_BALL = blob(5, BALL.shape)
PAIRS = {
    "blobs 2D": (blob(0, (48, 40)), blob(1, (48, 40)), (1, 1)),
    "blobs 2D anisotropic": (blob(2, (48, 40)), blob(3, (48, 40)), (0.7, 2.3)),
    "blobs 3D": (BLOB, blob(1, BLOB.shape), (1, 1, 1)),
    "blobs 3D anisotropic": (BLOB, blob(2, BLOB.shape), (0.5, 0.5, 3)),
    "blobs 1D": (points((9,), 1, 2, 3), points((9,), 5, 6), (1.5,)),
    "ellipsoids": (BALL, ellipsoid(BALL.shape, (16, 13, 12), (7, 7, 8)), (1, 1.2, 2)),
    "one inside the other": (BALL, ellipsoid(BALL.shape, (14, 13, 12), (2, 2, 2)), (1, 1, 1)),
    "far apart": (BALL, with_points(np.zeros_like(BALL), (29, 27, 25)), (1, 1, 1)),
    "stray voxel": (with_points(BALL, (0, 27, 0)), BALL, (1, 1, 2)),
    "single voxels": (points((9, 8, 7), (0, 0, 0)), points((9, 8, 7), (8, 7, 6)), (1, 2, 3)),
    "touching edges": (np.ones((12, 11), bool), ellipsoid((12, 11), (0, 10), (5, 6)), (1, 0.5)),
    "full image": (np.ones((6, 7, 8), bool), np.ones((6, 7, 8), bool), (1, 1, 1)),
    "noise": (
        np.random.default_rng(0).random((16, 15, 14)) < 0.5,
        np.random.default_rng(1).random((16, 15, 14)) < 0.02,
        (1, 1, 0.4),
    ),
    "Fortran order": (np.asfortranarray(BLOB), np.asfortranarray(BALL[:24, :20, :18]), (1, 2, 1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_surface_metrics_are_medpys_on_the_whole_image(name):
    binary = pytest.importorskip("medpy.metric.binary")
    prediction, reference, spacing = PAIRS[name]
    whole_image = (
        binary.hd95(prediction, reference, voxelspacing=spacing),
        binary.assd(prediction, reference, voxelspacing=spacing),
    )
    for method in ("scipy", "medpy"):
        assert surface_metrics(prediction, reference, spacing, method) == pytest.approx(
            whole_image, abs=1e-6
        )


def odd_mask(rng, shape):
    """A mask that is ragged, thin, tiny or on the border, by chance."""
    noise = gaussian_filter(rng.normal(size=shape), rng.choice([0, 0.7, 2, 5]))
    mask = noise >= np.quantile(noise, rng.choice([0, 0.3, 0.8, 0.97, 1]))
    if rng.random() < 0.3:
        mask[tuple(slice(n) for n in rng.integers(1, np.array(shape) + 1))] = True
    if rng.random() < 0.3:
        mask[tuple(rng.integers(0, shape))] = True
    return mask


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("spacing", [(1, 1), (0.7, 0.7), (0.4, 3), (1, 1, 1), (0.5, 0.5, 4)])
def test_surface_metrics_are_medpys_on_odd_masks(spacing, seed):
    binary = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng([seed, len(spacing)])
    for _ in range(5):
        shape = tuple(rng.integers(1, 90 if len(spacing) == 2 else 16, len(spacing)))
        pair = odd_mask(rng, shape), odd_mask(rng, shape)
        expected = [f(*pair, voxelspacing=spacing) for f in (binary.hd95, binary.assd)]
        assert surface_metrics(*pair, spacing) == pytest.approx(expected, abs=1e-6), shape


def test_far_distances_between_ragged_masks_are_exact():
    rows, columns = np.indices((1400, 1447))
    single = ((rows + columns) % 2 == 0) & (np.random.default_rng(0).random(rows.shape) < 0.5)
    prediction, reference = single & (columns < 500), single & (columns > 950)  # all is surface
    pooled = np.concatenate(
        [
            distance_transform_edt(~reference)[prediction],
            distance_transform_edt(~prediction)[reference],
        ]
    )
    assert surface_metrics(prediction, reference, (1, 1)) == pytest.approx(
        (np.percentile(pooled, 95), pooled.mean()), abs=1e-9
    )


@pytest.mark.parametrize("name", PAIRS)
def test_case_metrics_are_symmetric(name):
    prediction, reference, spacing = PAIRS[name]
    there = case_metrics(prediction, reference, spacing)
    back = case_metrics(reference, prediction, spacing)
    for metric in ("dice", "iou", "hd95", "assd"):
        assert there[metric] == pytest.approx(back[metric], abs=1e-12)
    assert there["volume_prediction"] == back["volume_reference"]


@pytest.mark.parametrize("name", PAIRS)
def test_spacing_scales_distances_linearly_and_volumes_by_its_power(name):
    prediction, reference, spacing = PAIRS[name]
    one = case_metrics(prediction, reference, spacing)
    three = case_metrics(prediction, reference, 3 * np.array(spacing))
    assert (three["dice"], three["iou"]) == (one["dice"], one["iou"])
    for metric in ("hd95", "assd"):
        assert three[metric] == pytest.approx(3 * one[metric])
    assert three["volume_reference"] == pytest.approx(3**reference.ndim * one["volume_reference"])


@pytest.mark.parametrize("shift", [(4, 0, 0), (-3, 2, 5)])
def test_case_metrics_do_not_change_when_both_masks_move(shift):
    other = ellipsoid(BALL.shape, (15, 14, 12), (6, 7, 5))
    moved = [np.roll(np.pad(mask, 6), shift, axis=(0, 1, 2)) for mask in (BALL, other)]
    assert case_metrics(*moved, (1, 2, 3)) == pytest.approx(case_metrics(BALL, other, (1, 2, 3)))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 1, 4)])
def test_a_mask_is_at_no_distance_from_itself(spacing):
    metrics = case_metrics(BALL, BALL, spacing)
    assert metrics == {
        "dice": 1.0,
        "iou": 1.0,
        "hd95": 0.0,
        "assd": 0.0,
        "volume_prediction": BALL.sum() * np.prod(spacing),
        "volume_reference": BALL.sum() * np.prod(spacing),
    }


def test_case_metrics_of_a_square_moved_by_two_rows():
    prediction, reference = np.zeros((2, 12, 12), bool)
    prediction[2:6, 3:7] = True
    reference[4:8, 3:7] = True
    metrics = case_metrics(prediction, reference, (0.5, 0.5))
    assert metrics["dice"] == 0.5
    assert metrics["iou"] == pytest.approx(1 / 3)
    assert metrics["volume_prediction"] == metrics["volume_reference"] == 4.0
    # Of the 12 border pixels of each square, in steps of a pixel: four at 2 (the far side), two
    # at 1 (the row next to it), four at 0 (on the other's sides) and two at 1 (within the other).
    assert metrics["hd95"] == pytest.approx(0.5 * 2)
    assert metrics["assd"] == pytest.approx(0.5 * (4 * 2 + 4 * 1) / 12)


def test_assd_pools_the_distances_of_both_directions():
    prediction = points((3, 20), (1, 0))
    reference = points((3, 20), (1, 0), (1, 9), (1, 12))
    # One distance of 0 one way; 0, 9 and 12 the other: 21 / 4, not (0 + 7) / 2.
    assert surface_metrics(prediction, reference, (1, 1))[1] == pytest.approx(5.25)


def test_hd95_is_the_percentile_of_the_pooled_distances():
    # The same computed over every voxel by definition, with neither box nor tree.
    prediction, reference, spacing = PAIRS["blobs 3D anisotropic"]

    def surface(mask):
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
        return mask & ~np.all(neighbours, axis=0)[1:-1, 1:-1, 1:-1]

    def directed(a, b):
        return distance_transform_edt(~surface(b), sampling=spacing)[surface(a)]

    pooled = np.concatenate([directed(prediction, reference), directed(reference, prediction)])
    assert surface_metrics(prediction, reference, spacing) == pytest.approx(
        (np.percentile(pooled, 95), pooled.mean())
    )


@pytest.mark.parametrize("method", ["scipy", "medpy"])
def test_empty_masks_are_at_no_distance_or_at_the_images_diagonal(method):
    empty, full = np.zeros((30, 40), bool), points((30, 40), (3, 4))
    both = case_metrics(empty, empty, (1, 1), method)
    assert [both[name] for name in ("dice", "iou", "hd95", "assd")] == [1, 1, 0, 0]
    for pair in ((empty, full), (full, empty)):
        one = case_metrics(*pair, (2, 2), method)
        assert [one[name] for name in ("dice", "iou", "hd95", "assd")] == [0, 0, 100, 100]


def test_case_metrics_are_plain_floats():
    for pair in ((BALL, BLOB_BY_BALL), (BALL, np.zeros_like(BALL)), (BALL ^ BALL, BALL ^ BALL)):
        assert {type(value) for value in case_metrics(*pair, (1, 1, 1)).values()} == {float}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_zeros_and_ones_of_any_type_are_masks(dtype):
    expected = case_metrics(BALL, BLOB_BY_BALL, (1, 1, 1))
    assert case_metrics(BALL.astype(dtype), BLOB_BY_BALL.astype(dtype), (1, 1, 1)) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), (1, 1), r"\(4, 4\).*\(4, 5\)"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (1, 1, 1), "expected 2 positive numbers"),
        (np.zeros((4, 4)), np.zeros((4, 4)), 1.0, "expected 2 positive numbers"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (1, 0), "expected 2 positive numbers"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (1, np.nan), "expected 2 positive numbers"),
        (np.full((4, 4), 0.7), np.zeros((4, 4)), (1, 1), "prediction.*0.7.*threshold"),
        (np.zeros((4, 4)), np.full((4, 4), 2, np.uint8), (1, 1), "reference.*2.*uint8"),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), (1, 1), "prediction.*nan"),
        (np.zeros((0, 4)), np.zeros((0, 4)), (1, 1), "at least one voxel"),
    ],
)
def test_case_metrics_says_what_is_wrong(prediction, reference, spacing, message):
    with pytest.raises(ValueError, match=message):
        case_metrics(prediction, reference, spacing)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'monai'"):
        case_metrics(BALL, BALL, (1, 1, 1), method="monai")


def test_vertical_cup_to_disc_ratio_measures_rows():
    disc, cup = np.zeros((2, 40, 30), bool)
    disc[5:25, 2:28] = True
    cup[10:18, 14] = True
    assert vertical_cup_to_disc_ratio(cup, disc) == 8 / 20
    assert vertical_cup_to_disc_ratio(disc, disc) == 1


def test_vertical_cup_to_disc_ratio_of_an_empty_mask_is_nan():
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    for cup, disc in ((empty, full), (full, empty), (empty, empty)):
        assert np.isnan(vertical_cup_to_disc_ratio(cup, disc))


def test_vertical_cup_to_disc_ratio_says_what_is_wrong():
    with pytest.raises(ValueError, match="cup of shape .*disc of shape"):
        vertical_cup_to_disc_ratio(np.zeros((4, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="rows, columns"):
        vertical_cup_to_disc_ratio(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))
