import numpy as np
import pytest

from keras_meduda.data.catalog import folders
from keras_meduda.data.io import read_image, read_mask
from keras_meduda.teachers.boxes import boxes_by_case, boxes_from_masks
from keras_meduda.teachers.grabcut import grabcut, soft_mask
from keras_meduda.teachers.targets import Failure


def scene(radius=12.0, centre=(30, 34), size=64, seed=0):
    """A bright ellipse on a noisy ground: image, mask, tight box."""
    y, x = np.mgrid[:size, :size]
    mask = np.hypot((x - centre[0]) / radius, (y - centre[1]) / (0.7 * radius)) <= 1
    noise = np.random.default_rng(seed).normal(0, 8, (size, size))
    image = np.clip(np.where(mask, 180, 70) + noise, 0, 255).astype("uint8")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.repeat(image[..., None], 3, axis=-1), mask, box


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("shift", [(0, 0, 0, 0), (-3, 2, 3, -2), (2, 2, 3, 3)])
def test_a_bright_ellipse_is_found_from_a_box_that_is_a_little_off(shift):
    image, mask, box = scene()
    probability = soft_mask(image, box + shift)
    assert dice(probability > 0.5, mask) > 0.95
    assert probability.dtype == "float32" and 0 <= probability.min() and probability.max() <= 1


def test_nothing_is_found_far_from_the_box_and_all_of_it_in_the_middle():
    image, _, (x0, y0, x1, y1) = scene()
    probability = soft_mask(image, (x0, y0, x1, y1))
    far = np.ones_like(probability, bool)
    far[y0 - 6 : y1 + 6, x0 - 6 : x1 + 6] = False
    assert probability[far].max() == 0
    assert probability[(y0 + y1) // 2, (x0 + x1) // 2] == pytest.approx(1)


def test_equal_inputs_give_equal_bits():
    image, _, box = scene()
    np.testing.assert_array_equal(soft_mask(image, box), soft_mask(image, box))


def test_the_mask_follows_a_mirrored_image():
    image, mask, (x0, y0, x1, y1) = scene()
    mirrored = soft_mask(np.ascontiguousarray(image[:, ::-1]), (64 - x1, y0, 64 - x0, y1))
    assert dice(mirrored[:, ::-1] > 0.5, soft_mask(image, (x0, y0, x1, y1)) > 0.5) > 0.98


def test_two_boxes_give_the_larger_probability_and_the_mean_variance():
    image, _, box = scene()
    other, _, second = scene(radius=8.0, centre=(12, 12))
    both = np.maximum(image, other)
    targets = [grabcut().teach(both, np.array(b)) for b in ([box], [second], [box, second])]
    expected = np.maximum(targets[0].probability, targets[1].probability)
    np.testing.assert_allclose(targets[2].probability, expected, atol=1e-6)
    assert targets[2].variance == pytest.approx(np.mean([t.variance for t in targets[:2]]))
    assert targets[2].quality.shape == (2,)


@pytest.mark.parametrize(
    ("image", "box", "reason"),
    [
        (np.zeros((40, 40, 3), "uint8"), (10, 10, 30, 30), "(full|empty) mask"),
        (scene()[0], (5.3, 5.3, 6.2, 6.2), "empty mask: the box 0.9 × 0.9 px is too small"),
        (scene()[0], (0, 0, 64, 64), "full mask: the box 64 × 64 px leaves no background"),
    ],
)
def test_a_mask_that_says_nothing_is_a_failure(image, box, reason):
    with pytest.raises(Failure, match=reason):
        soft_mask(image, box)


def test_it_beats_the_bare_box_on_real_tumours(data_root):
    """Every twelfth image of the set, boxes jittered by up to 4 px; 0.87 over all 300."""
    cases, task = folders(data_root / "brain2d_cheng")
    cases = cases.iloc[::12]
    boxes = boxes_by_case(boxes_from_masks(cases, task, jitter=4), cases)
    scores = []
    for case in cases.itertuples():
        target = grabcut().teach(read_image(case.image).array, boxes[case.case][:, :4])
        mask = read_mask(case.mask, task) > 0
        filled = np.zeros_like(mask)
        x0, y0, x1, y1 = boxes[case.case][0, :4].astype(int)
        filled[y0:y1, x0:x1] = True
        scores.append((dice(target.probability > 0.5, mask), dice(filled, mask)))
    found, bare = np.mean(scores, axis=0)
    assert found > 0.84 and found > bare + 0.05
