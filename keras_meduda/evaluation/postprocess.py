"""Post-processing of the original releases, applied by name only: it changes the scores.

Each gives boolean masks; `km.evaluate(…, masks=…)` takes a function from probabilities to such.
"""

import numpy as np
import scipy  # whose modules load when they are used

NAMES = ("none", "beal", "islands_and_holes")


def named(name: str, task):
    """The function from probabilities to boolean masks that `--postprocess` of the scripts names.

    Args:
        name: `"none"`, `"beal"` or `"islands_and_holes"`.
        task: whose threshold makes the masks, but for BEAL's, which has its own.

    Raises:
        ValueError: another name.

    Example:
        >>> from keras_meduda.task import Task
        >>> named("none", Task(("lesion",), overlapping=True))(np.array([[[0.7]]])).tolist()
        [[[True]]]
    """
    if name not in NAMES:
        raise ValueError(f"postprocess: received {name!r}, expected one of {NAMES}.")
    if name == "islands_and_holes":
        return lambda probabilities: islands_and_holes(task.masks(probabilities))
    return beal if name == "beal" else task.masks


def beal(probabilities, thresholds=(0.75, 0.75)) -> np.ndarray:
    """Masks of cup and disc as BEAL and UDA_CLR make them for their final scores.

    Per class: threshold; five median filters of 7 × 7; erosion by a diamond of radius 7; the
    largest component; its holes filled. In pixels of an image of about 512 × 512.

    Args:
        probabilities: `(H, W, classes)`.
        thresholds: one a class. The original takes (0.1, 0.5) on Drishti-GS, which is tuning on the
            target. Default 0.75.

    Returns:
        Boolean masks `(H, W, classes)`.

    Raises:
        ValueError: not as many thresholds as classes.

    Source:
        BEAL (arXiv 1906.11143).

    Example:
        >>> disc = np.hypot(*np.mgrid[-64:64, -64:64])[..., None] <= 30
        >>> int(beal(1.0 * disc, thresholds=(0.5,)).sum())  # smaller by the erosion
        1717
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 3 or probabilities.shape[-1] != len(thresholds):
        raise ValueError(
            f"beal: probabilities of shape {probabilities.shape}; expected (H, W, classes) with "
            f"one class for each of the thresholds {tuple(thresholds)}."
        )
    masks = [_beal(probabilities[..., i] > t) for i, t in enumerate(thresholds)]
    return np.stack(masks, axis=-1)


def islands_and_holes(masks, smallest=20) -> np.ndarray:
    """Masks without small islands, then without small holes; each class by itself.

    Pixels that touch, be it at a corner, are one component. A component of a class below `smallest`
    is removed, and then one of what remains around it is added.

    Args:
        masks: boolean `(*spatial, classes)`.
        smallest: number of pixels or voxels that stays. Default 20.

    Returns:
        Boolean masks of the same shape.

    Source:
        `lib/utils.py` of RatLesNetV2 (Valverde et al. 2020).

    Example:
        >>> masks = np.zeros((16, 16, 1), bool)
        >>> masks[2:12, 2:12] = masks[15, 15] = True
        >>> masks[6, 6] = False
        >>> int(masks.sum()), int(islands_and_holes(masks).sum())
        (100, 100)
    """
    masks = np.asarray(masks, bool)
    cleaned = [_without_small(masks[..., i], smallest) for i in range(masks.shape[-1])]
    return np.stack([~_without_small(~mask, smallest) for mask in cleaned], axis=-1)


def _without_small(mask, smallest):
    labels, _ = scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))
    stays = np.bincount(labels.ravel()) >= smallest
    stays[0] = False  # what is outside of the mask
    return stays[labels]


def _beal(mask):
    cross = scipy.ndimage.generate_binary_structure(2, 1)
    diamond = scipy.ndimage.iterate_structure(cross, 7)
    for _ in range(5):  # the median of 0 and 1 is the majority
        mask = scipy.ndimage.uniform_filter(49.0 * mask, 7, mode="constant") > 24.5
    mask = scipy.ndimage.binary_erosion(mask, diamond, border_value=1)
    labels, count = scipy.ndimage.label(mask)
    if not count:
        return mask
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return scipy.ndimage.binary_fill_holes(largest)
