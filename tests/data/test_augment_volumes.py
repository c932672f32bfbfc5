"""Volumes move and change by the same laws as pictures, and as SciPy moves and blurs them."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import tensorflow as tf

from keras_meduda.data.augment import (
    Geometry,
    Intensity,
    Photometry,
    RandomPatch,
    blur,
    geometry,
    recolour,
    rescan,
    warp_volume,
)

SIZE = (9, 8, 7)
STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
BOLD = Geometry(flip="XYZ", rotation=40, scale=0.4, shift=0.2)
NEUTRAL = Intensity(brightness=0, contrast=0, gamma=0, blur=0, noise=0)
STRONG = Intensity(probability=1.0)
SEEDS = np.stack([np.full(200, 7), np.arange(200)], axis=-1).astype("int64")


def volume(size=SIZE, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(*size, channels)).astype("float32")


def blocks(classes=4):
    coarse = np.random.default_rng(1).integers(0, classes, (3, 3, 3))
    return np.kron(coarse, np.ones((4, 4, 4)))[: SIZE[0], : SIZE[1], : SIZE[2], None].astype("u1")


def draws(settings, *size):
    sample = tf.function(lambda seed: settings.sample(seed, *size))
    drawn = [sample(seed) for seed in tf.constant(SEEDS)]
    if isinstance(drawn[0], dict):
        return {name: np.array([draw[name] for draw in drawn]) for name in drawn[0]}
    return np.array(drawn)


# Geometry


@pytest.mark.parametrize("size", [SIZE, (5, 5, 5), (1, 6, 4)])
@pytest.mark.parametrize("nearest", [False, True])
def test_no_geometry_is_the_identity_to_the_bit(size, nearest):
    move = STILL.sample((1, 2), *size)
    np.testing.assert_array_equal(STILL.apply(volume(size), move, nearest), volume(size))


@pytest.mark.parametrize("seed", range(6))
def test_volumes_move_as_scipy_moves_them(seed):
    """SciPy's "reflect" mirrors the outermost voxel as well, and so do we."""
    move = BOLD.sample((3, seed), *SIZE)
    linear, offset = move[:, :3].numpy(), move[:, 3].numpy()
    for order, nearest in ((1, False), (0, True)):
        expected = [
            ndi.affine_transform(channel, linear, offset, order=order, mode="reflect")
            for channel in np.moveaxis(volume(), -1, 0)
        ]
        moved = warp_volume(volume(), move, nearest)
        np.testing.assert_allclose(moved, np.stack(expected, axis=-1), atol=1e-4)


@pytest.mark.parametrize("nearest", [False, True])
def test_what_is_moved_in_chunks_is_moved_alike(monkeypatch, nearest):
    move = BOLD.sample((3, 1), *SIZE)
    whole = warp_volume(volume(), move, nearest)
    monkeypatch.setattr(geometry, "CHUNK", 2 * 8 * 7)  # two slices of nine at a time
    np.testing.assert_array_equal(warp_volume(volume(), move, nearest), whole)


@pytest.mark.parametrize("seed", range(4))
def test_an_image_and_its_labels_move_together(seed):
    """Between the voxels of an outline the image is a mixture, everywhere else they are equal."""
    move = Geometry().sample((3, seed), *SIZE)
    moved = warp_volume(blocks(2), move, nearest=True).numpy()
    image = warp_volume(blocks(2).astype("float32"), move).numpy()
    pure = (image < 1e-4) | (image > 1 - 1e-4)
    np.testing.assert_allclose(image[pure], moved[pure], atol=1e-3)
    assert moved.dtype == "uint8" and pure.mean() > 0.25
    classes = np.arange(4, dtype="uint8")
    labels = warp_volume(blocks(), move, nearest=True)
    hot = warp_volume((blocks() == classes).astype("float32"), move, nearest=True)
    np.testing.assert_array_equal(labels == classes, hot)


@pytest.mark.parametrize(("axes", "axis"), [("XYZ", 0), ("YXZ", 1), ("ZYX", 2)])
def test_left_and_right_are_where_the_axes_say(axes, axis):
    mirror = Geometry(flip=True, rotation=0, scale=0, shift=0)
    moved = {
        mirror.apply(volume(), mirror.sample(seed, *SIZE, axes=axes)).numpy().tobytes()
        for seed in SEEDS[:20]
    }
    assert moved == {volume().tobytes(), np.flip(volume(), axis).tobytes()}


def test_each_axis_is_mirrored_on_its_own_half_of_the_time():
    moves = draws(Geometry(flip="XZ", rotation=0, scale=0, shift=0), *SIZE)
    mirrored = moves[:, range(3), range(3)] < 0
    assert not mirrored[:, 1].any()
    assert 0.4 < mirrored[:, 0].mean() < 0.6 and 0.4 < mirrored[:, 2].mean() < 0.6
    assert 0.15 < mirrored.all(axis=1, where=[True, False, True]).mean() < 0.35


def test_a_transform_turns_scales_and_shifts_within_its_bounds():
    moves = draws(Geometry(flip=False, rotation=30, scale=0.25, shift=0.1), *SIZE)
    linear, offset = moves[:, :, :3].astype("float64"), moves[:, :, 3]
    zoom = np.cbrt(np.linalg.det(linear))
    assert 1 / 1.25 <= zoom.min() < 0.85 and 1.2 < zoom.max() <= 1.25
    turn = linear / zoom[:, None, None]
    np.testing.assert_allclose(
        turn @ turn.swapaxes(1, 2), np.tile(np.eye(3), (200, 1, 1)), atol=1e-5
    )
    angle = np.degrees(np.arccos((np.trace(turn, axis1=1, axis2=2) - 1) / 2))
    assert 30 < angle.max() < 30 * 3**0.5 + 1  # three turns add up, at most at right angles
    centre = (np.array(SIZE) - 1) / 2
    shift = np.abs(linear @ centre + offset - centre) / SIZE
    assert (0.08 < shift.max(axis=0)).all() and shift.max() <= 0.1 + 1e-5


@pytest.mark.parametrize("axis", range(3))
def test_angles_are_about_the_axes_they_are_given_for(axis):
    angles = tuple(20.0 * (a == axis) for a in range(3))
    for move in draws(Geometry(False, angles, scale=0, shift=0), *SIZE)[:20]:
        np.testing.assert_allclose(move[:, :3][axis], np.eye(3)[axis], atol=1e-6)
        np.testing.assert_allclose(move[:, :3][:, axis], np.eye(3)[axis], atol=1e-6)
        assert not np.allclose(move[:, :3], np.eye(3), atol=1e-4)


def test_a_move_is_a_function_of_its_seed():
    one, again, other = (Geometry().sample(seed, *SIZE) for seed in [(1, 2), (1, 2), (1, 3)])
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        ({"flip": "W"}, None, "flip='W'; expected True, False or axes"),
        ({"rotation": (10, 20)}, None, r"rotation=\(10, 20\); expected one angle, or three"),
        ({"flip": "XY"}, (8, 8), "flip='XY'.* a picture is mirrored along X alone"),
        ({"rotation": (10, 20, 30)}, (8, 8), "turned by one angle"),
    ],
)
def test_a_geometry_that_is_none(settings, size, message):
    with pytest.raises(ValueError, match=f"Geometry: .*{message}"):
        Geometry(**settings).sample((1, 2), *size)


# Intensities


@pytest.mark.parametrize("neutral", [NEUTRAL, Intensity(probability=0.0)])
@pytest.mark.parametrize("size", [SIZE, (9, 8)])
def test_no_change_of_intensity_is_the_identity(neutral, size):
    image = volume(size)
    np.testing.assert_allclose(rescan(image, neutral.sample((1, 2))), image, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_zero_background_stays_zero(seed):
    image = np.where(blocks(2) > 0, volume(), 0)
    changed = rescan(image, STRONG.sample((3, seed))).numpy()
    np.testing.assert_array_equal(changed == 0, image == 0)
    assert not np.allclose(changed, image, atol=0.01)


def test_intensities_are_a_function_of_their_seed():
    one, again, other = (
        rescan(volume(), STRONG.sample(seed)).numpy() for seed in [(1, 2), (1, 2), (1, 3)]
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_intensities_change_as_their_names_say():
    image, draw = volume(), NEUTRAL.sample((1, 2))
    mean, low, high = image.mean(), image.min(), image.max()
    share = (image - low) / (high - low)
    for name, value, expected in [
        ("brightness", 0.3, image + 0.3),
        ("contrast", 1.5, mean + 1.5 * (image - mean)),
        ("gamma", 2.0, low + (high - low) * share**2),
    ]:
        changed = rescan(image, {**draw, name: value})
        np.testing.assert_allclose(changed, expected, atol=1e-4, err_msg=name)
    noise = rescan(volume((20, 20, 20)), {**draw, "noise": 0.1}) - volume((20, 20, 20))
    assert np.std(noise) == pytest.approx(0.1, rel=0.05)


def test_draws_of_intensity_keep_to_their_bounds_and_probability():
    drawn = draws(Intensity(probability=0.5))
    bounds = {"brightness": 0.3, "contrast": 1.3, "gamma": 1.5, "blur": 1.0, "noise": 0.1}
    for name, bound in bounds.items():
        neutral = 1.0 if name in ("contrast", "gamma") else 0.0
        assert 0.35 < (drawn[name] != neutral).mean() < 0.65, name
        assert 0.9 * bound < drawn[name].max() <= bound + 1e-6, name


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_image_gives_no_nan(value):
    for seed in SEEDS[:10]:
        assert np.isfinite(rescan(np.full((*SIZE, 1), value, "f4"), STRONG.sample(seed))).all()


@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.3])
@pytest.mark.parametrize("size", [(12, 10, 11), (3, 9, 1)])  # thinner than the kernel
def test_blur_of_volumes_is_scipys(size, sigma):
    image = volume(size)
    kernels = (sigma, sigma, sigma, 0)
    expected = ndi.gaussian_filter(image, kernels, radius=(4, 4, 4, 0)) if sigma else image
    np.testing.assert_allclose(blur(image, sigma), expected, atol=1e-5)


def test_8_bit_volumes_are_recoloured_as_pictures_are():
    image = np.random.default_rng(0).uniform(0, 255, (*SIZE, 1)).astype("float32")
    still = recolour(image, Photometry(probability=0.0).sample((1, 2)))
    np.testing.assert_allclose(still, image, atol=1e-3)
    changed = recolour(image, Photometry(probability=1.0).sample((1, 2))).numpy()
    assert np.abs(changed - image).max() > 1 and 0 <= changed.min() <= changed.max() <= 255


# Places of patches


def places(patch, size, voxels=None, count=200):
    sample = tf.function(lambda seed: patch.sample(seed, size, voxels))
    return np.array([sample(seed) for seed in tf.constant(SEEDS[:count])])


def test_patches_lie_anywhere_and_none_reaches_out():
    found = places(RandomPatch((4, 6, 5)), (5, 8, 5))
    assert {tuple(p) for p in found} == {(z, y, 0) for z in range(2) for y in range(3)}


def test_the_stated_share_of_patches_lies_around_a_voxel():
    size, voxel = (20, 20, 20), (11, 4, 15)
    voxels = tf.constant([np.ravel_multi_index(voxel, size)], "int32")
    for share in (0.0, 0.3, 1.0):
        found = places(RandomPatch((5, 4, 5), foreground=share), size, voxels)
        around = (found == np.array(voxel) - (2, 2, 2)).all(axis=1)
        assert around.mean() == pytest.approx(share, abs=0.1)
        assert (share == 1.0) == around.all() and (share == 0.0) == (not around.any())


def test_every_labelled_voxel_is_drawn_alike_and_its_patch_kept_inside():
    size = (20, 20, 20)
    corners = [(0, 0, 0), (19, 19, 19), (10, 0, 19), (7, 8, 9)]
    voxels = tf.constant([np.ravel_multi_index(c, size) for c in corners], "int32")
    found = places(RandomPatch((6, 6, 6), foreground=1.0), size, voxels)
    starts, counts = np.unique(found, axis=0, return_counts=True)
    assert starts.tolist() == [[0, 0, 0], [4, 5, 6], [7, 0, 14], [14, 14, 14]]
    assert counts / 200 == pytest.approx([0.25] * 4, abs=0.1)


def test_a_volume_without_labelled_voxels_has_patches_anywhere():
    size, none = (9, 9, 9), tf.zeros([0], "int32")
    found = places(RandomPatch((4, 4, 4), foreground=1.0), size, none)
    assert len(np.unique(found, axis=0)) > 80


@pytest.mark.parametrize("size", [(8,), (0, 8, 8), (8.5, 8, 8), 8])
def test_a_patch_that_is_none(size):
    with pytest.raises(ValueError, match="RandomPatch: size .*; expected two or three positive"):
        RandomPatch(size)


def test_a_share_that_is_none():
    with pytest.raises(ValueError, match="RandomPatch: foreground=1.5; expected 0 to 1"):
        RandomPatch((8, 8, 8), foreground=1.5)


def test_a_volume_is_blurred_and_its_background_is_not_in_its_mean():
    still, x = Intensity(probability=0.0).sample((1, 2)), volume() + 5
    np.testing.assert_allclose(rescan(x, {**still, "blur": 1.2}), blur(x, 1.2), atol=1e-4)
    x[:4] = 0
    mean = x[x != 0].mean()
    expected = np.where(x != 0, mean + 1.5 * (x - mean), 0)
    np.testing.assert_allclose(rescan(x, {**still, "contrast": 1.5}), expected, atol=1e-4)
