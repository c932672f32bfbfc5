"""The boundary map that a network learns beside its masks (BEAL), in graph code.

It is made from the mask after every geometric augmentation, so that image, mask and boundary agree.
"""

import numpy as np
import tensorflow as tf

WIDTH, SIGMA = 5, 3.0  # of the band on either side of an outline, and of the blur, in pixels
RADIUS = 12  # 4 σ, where SciPy cuts a Gaussian

_offset = np.abs(np.arange(-WIDTH, WIDTH + 1))
DIAMOND = (_offset[:, None] + _offset <= WIDTH).astype("float32")
GAUSSIAN = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
GAUSSIAN /= GAUSSIAN.sum()


def boundary_target(mask):
    """A soft band around the outline of every class.

    The pixels that dilation by a diamond of 5 pixels adds and erosion removes, of all classes
    together, blurred by a Gaussian of σ 3 in 8-bit arithmetic: each of its two passes drops the
    fraction.

    Args:
        mask: 0/1 maps of the classes, background not among them, `(H, W, classes)`, 12 pixels or
            more on either side.

    Returns:
        float32 `(H, W, 1)`, 0 to 1.

    Source:
        BEAL (arXiv 1906.11143) and UDA_CLR (arXiv 2207.03684).

    Example:
        >>> disc = np.hypot(*np.mgrid[-32:32, -32:32])[..., None] <= 16
        >>> boundary_target(disc.astype("float32")).shape
        TensorShape([64, 64, 1])
    """
    kernel = tf.tile(DIAMOND[..., None, None], [1, 1, mask.shape[-1], 1])
    inside = tf.nn.depthwise_conv2d(mask[None], kernel, [1, 1, 1, 1], "SAME")[0]
    band = tf.reduce_any((inside > 0.5) & (inside < DIAMOND.sum() - 0.5), axis=-1)
    grey = 255.0 * tf.cast(band, "float64")
    grey = _blur_columns(_blur_columns(grey))
    return tf.cast(grey / 255.0, "float32")[..., None]


def _blur_columns(grey):
    """The Gaussian along the first axis, whole grey levels, transposed for the second pass.

    In SciPy's precision and order of summation: the last bit decides whether 255 · Σ w is 254.
    """
    height = tf.shape(grey)[0]
    padded = tf.pad(grey, [[RADIUS, RADIUS], [0, 0]], "SYMMETRIC")
    total = GAUSSIAN[RADIUS] * grey
    for i in range(RADIUS):
        end = 2 * RADIUS - i
        total += GAUSSIAN[i] * (padded[i : i + height] + padded[end : end + height])
    return tf.transpose(tf.floor(total))
