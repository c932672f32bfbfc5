"""How far a network's probabilities can be believed: reliability, its expected error, entropy."""

import math

import numpy as np
from numpy.typing import ArrayLike

BINS = 15


def reliability(probabilities: ArrayLike, reference: ArrayLike, bins: int = BINS) -> np.ndarray:
    """Count probabilities, and how often they came true, in bins of equal width.

    Bin `b` of `B` holds the pixels with `b/B ≤ p < (b+1)/B`; the last one holds `p = 1` as well.
    The counts of several images add up to those of all their pixels.

    Args:
        probabilities: Of the classes, `(*spatial, classes)`, in [0, 1]; background left out.
        reference: Boolean masks of the same shape.
        bins: Number of bins, at most 255. Default 15.

    Returns:
        float64 `(classes, bins, 3)`: pixels, sum of their probabilities, pixels of the class.

    Raises:
        ValueError: For shapes that differ.

    Source:
        Murphy & Winkler, Applied Statistics 26(1), 1977.

    Example:
        >>> reliability([[0.2], [0.4], [0.9]], [[0], [1], [1]], bins=2).round(6).tolist()
        [[[2.0, 0.6, 1.0], [1.0, 0.9, 1.0]]]
    """
    p, y = np.asarray(probabilities), np.asarray(reference, bool)
    if p.shape != y.shape:
        raise ValueError(
            f"Received probabilities of shape {p.shape} and reference masks of shape {y.shape}, "
            "expected equal shapes."
        )
    counts = np.zeros((p.shape[-1], bins, 3))
    for c, table in enumerate(counts):  # class by class: a volume is large
        promised, found = p[..., c].ravel(), y[..., c].ravel()
        index = np.minimum((promised * bins).astype("uint8"), bins - 1)
        for column, weights in enumerate((None, promised, found)):
            table[:, column] = np.bincount(index, weights, bins)
    return counts


def expected_calibration_error(counts: ArrayLike) -> float:
    """Return how far probabilities are from frequencies, on average over pixels.

    `ECE = Σ_b n_b/n · |mean probability in b − share of the class in b|`. Most pixels of an image
    are background that nobody doubts, and they draw the figure of a small structure towards 0;
    `counts[1:]` leaves out the pixels to which the network gives less than one bin's width.

    Args:
        counts: Of one class, `(bins, 3)`, as `reliability` gives them.

    Returns:
        The error in [0, 1], NaN where no pixel was counted.

    Source:
        Naeini, Cooper & Hauskrecht, AAAI 2015; in segmentation Mehrtash et al., IEEE Transactions
        on Medical Imaging 39(12), 2020.

    Example:
        >>> expected_calibration_error([[2, 0.5, 0], [2, 1.5, 2]])
        0.25
    """
    pixels, promised, found = np.asarray(counts, "float64").T
    return float(np.abs(promised - found).sum() / pixels.sum()) if pixels.sum() else math.nan


def entropy(probabilities: ArrayLike, overlapping: bool) -> np.ndarray:
    """Return a network's doubt about every pixel, in nats.

    `H = −Σ_c p_c ln p_c` over the channels of a softmax; for overlapping classes the sum of the
    entropies of each one's sigmoid, `−Σ_c (p_c ln p_c + (1 − p_c) ln(1 − p_c))`.

    Args:
        probabilities: `(*spatial, channels)`, as `km.predict` gives them.
        overlapping: Whether every channel is a sigmoid of its own.

    Returns:
        `(*spatial)`; 0 where the network is certain, at most `largest_entropy`.

    Source:
        Shannon, Bell System Technical Journal 27(3), 1948.

    Example:
        >>> entropy([0.5, 0.5], overlapping=False).round(4).item()
        0.6931
    """
    p = np.clip(np.asarray(probabilities, "float64"), 0, 1)
    return (_surprise(p) + _surprise(1 - p) if overlapping else _surprise(p)).sum(axis=-1)


def largest_entropy(channels: int, overlapping: bool) -> float:
    """Return the entropy of a pixel of which a network knows nothing, in nats.

    `C ln 2` for overlapping classes, `ln C` for those that exclude each other.

    Example:
        >>> round(largest_entropy(2, overlapping=True), 4)
        1.3863
    """
    return channels * math.log(2) if overlapping else math.log(channels)


def _surprise(p):
    return -p * np.log(np.maximum(p, 1e-12))
