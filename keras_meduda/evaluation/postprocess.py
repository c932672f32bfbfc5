"""Post-processing of the original releases, applied by name only: it changes the scores."""

import numpy as np
from scipy import ndimage

DIAMOND = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 7)


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


def _beal(mask):
    for _ in range(5):  # the median of 0 and 1 is the majority
        mask = ndimage.uniform_filter(49.0 * mask, 7, mode="constant") > 24.5
    mask = ndimage.binary_erosion(mask, DIAMOND, border_value=1)
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return ndimage.binary_fill_holes(largest)
