"""GrabCut prompted by a box: a teacher without weights, for demonstrations and tests."""

import numpy as np

from keras_meduda.data._cv2 import cv2
from keras_meduda.teachers.boxes import as_rgb
from keras_meduda.teachers.targets import Failure, Teacher, of_boxes, self_agreement

ITERATIONS = 3  # more change nothing that could be measured
MARGIN = 2  # pixels around the box that may still be foreground
SURE = 0.7  # ellipse of this share of the box that is foreground without question
COMPONENTS, CHANNELS = 5, 3  # of OpenCV's colour models


def grabcut() -> Teacher:
    """The teacher: soft masks of an image and its boxes, no embedding.

    Example:
        >>> image = np.full((32, 32, 3), 40, "uint8")
        >>> image[10:20, 12:22] = 200
        >>> image += np.random.default_rng(0).integers(0, 9, image.shape).astype("uint8")
        >>> target = grabcut().teach(image, np.array([[11, 9, 23, 21]]))
        >>> bool(target.probability[15, 17] > 0.9 > 0.1 > target.probability[2, 2])
        True
    """
    return of_boxes("grabcut", f"1, OpenCV {cv2.__version__}", _segment)


def soft_mask(image, box) -> np.ndarray:
    """Foreground probability of one box, `(H, W)` float32.

    GrabCut starts from a drawn mask in a window of twice the box (at least 4 px around it): an
    ellipse of 0.7 of the box is foreground, the ellipse inscribed in the box probably so, the rest
    of the box and 2 px around it probably background, everything else background. Where GrabCut had
    a choice, P = ½ (cut + posterior), posterior = π_f p_f / (π_f p_f + π_b p_b) of the two colour
    models; all blurred by a Gaussian of 1 px.

    A start from the rectangle alone, OpenCV's usual one, fails on tumours: they are not the only
    bright tissue.

    Args:
        image: uint8 `(H, W, 3)`.
        box: `(x0, y0, x1, y1)`.

    Raises:
        Failure: an empty or a full mask: GrabCut decided nothing.

    Source:
        Rother et al., "GrabCut", ACM Transactions on Graphics 23(3), 2004, for the cut.
    """
    (x0, y0, x1, y1), (height, width) = box, image.shape[:2]
    w, h, cx, cy = x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
    reach_x, reach_y = max(w, w / 2 + 2 * MARGIN), max(h, h / 2 + 2 * MARGIN)
    window = _pixels(cy, reach_y, height), _pixels(cx, reach_x, width)
    y, x = np.mgrid[window] + 0.5
    radius = np.hypot((x - cx) / (w / 2), (y - cy) / (h / 2))

    labels = np.full(radius.shape, cv2.GC_BGD, "uint8")
    near = (np.abs(x - cx) < w / 2 + MARGIN) & (np.abs(y - cy) < h / 2 + MARGIN)
    labels[near] = cv2.GC_PR_BGD
    labels[radius <= 1] = cv2.GC_PR_FGD
    labels[radius <= SURE] = cv2.GC_FGD
    sure, open_question = labels == cv2.GC_FGD, (labels != cv2.GC_BGD) & (labels != cv2.GC_FGD)
    if not sure.any():
        raise Failure(f"empty mask: the box {w:g} × {h:g} px is too small for GrabCut")
    if (labels != cv2.GC_BGD).all():
        raise Failure(f"full mask: the box {w:g} × {h:g} px leaves no background around it")

    pixels = np.ascontiguousarray(image[window])
    background, foreground = np.zeros((2, 1, 13 * COMPONENTS))
    cv2.setRNGSeed(0)  # it starts its colour models by k-means
    cv2.grabCut(pixels, labels, None, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    cut = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not cut[open_question].any() or cut[open_question].all():
        found = "full" if cut[open_question].all() else "empty"
        raise Failure(f"{found} mask: GrabCut found no edge in the box")

    odds = _log_likelihood(pixels, foreground) - _log_likelihood(pixels, background)
    posterior = 1.0 / (1.0 + np.exp(-np.clip(odds, -50, 50)))
    soft = np.where(open_question, 0.5 * (cut + posterior), sure)
    probability = np.zeros((height, width), "float32")
    probability[window] = soft
    return cv2.GaussianBlur(probability, (0, 0), 1.0)


def _segment(image, boxes):
    rgb = as_rgb(image)
    maps = np.stack([soft_mask(rgb, box) for box in boxes.tolist()])
    return maps, [self_agreement(p) for p in maps], None


def _pixels(centre, reach, length):
    """The pixels of an axis that are no further than `reach` from a place on it."""
    return slice(max(int(np.floor(centre - reach)), 0), min(int(np.ceil(centre + reach)), length))


def _log_likelihood(pixels, model):
    """The log Σ_k π_k N(c; μ_k, Σ_k) of OpenCV's mixture, which is one row of numbers."""
    weights, means, covariances = np.split(model[0], [COMPONENTS, COMPONENTS * (1 + CHANNELS)])
    means = means.reshape(COMPONENTS, CHANNELS)
    covariances = covariances.reshape(COMPONENTS, CHANNELS, CHANNELS)
    terms = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        if weight > 0:
            covariance = covariance + 0.01 * np.eye(CHANNELS)  # a grey image has a singular one
            away = pixels - mean
            distance = np.einsum("...i,ij,...j->...", away, np.linalg.inv(covariance), away)
            terms.append(np.log(weight) - 0.5 * (np.linalg.slogdet(covariance)[1] + distance))
    return np.logaddexp.reduce(terms, axis=0)
