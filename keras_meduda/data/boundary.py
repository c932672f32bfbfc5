"""The boundary map that a network learns beside its masks (BEAL), in graph code.

It is made from the mask after every geometric augmentation, so that image, mask and boundary agree.
"""

import numpy as np
import tensorflow as tf

WIDTH, SIGMA = 5, 3.0  # of the band on either side of an outline, and of the blur, in pixels
RADIUS = 12  # 4 σ, where SciPy cuts a Gaussian

GAUSSIAN = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
GAUSSIAN /= GAUSSIAN.sum()


def boundary_target(mask):
    """A soft band around the outline of every class, in 2D and 3D.

    The pixels that dilation by a diamond of 5 pixels adds and erosion removes, of all classes
    together, blurred by a Gaussian of σ 3 in 8-bit arithmetic: each of its passes, one an axis,
    drops the fraction. Widths are in pixels or voxels, whatever their spacing.

    Args:
        mask: 0/1 maps of the classes, background not among them, `(*spatial, classes)`.

    Returns:
        float32 `(*spatial, 1)`, 0 to 1.

    Source:
        BEAL (arXiv 1906.11143) and UDA_CLR (arXiv 2207.03684), which are 2D.

    Example:
        >>> disc = np.hypot(*np.mgrid[-32:32, -32:32])[..., None] <= 16
        >>> boundary_target(disc.astype("float32")).shape
        TensorShape([64, 64, 1])
    """
    inside = tf.cast(mask, "uint8")
    band = tf.minimum(_grown(inside, beyond=0), _grown(1 - inside, beyond=1))
    grey = 255.0 * tf.cast(tf.reduce_max(band, axis=-1), "float64")
    for _axis in grey.shape:
        grey = _blur_first_axis(grey)
    return tf.cast(grey / 255.0, "float32")[..., None]


def _grown(x, beyond):
    """Dilation by the diamond: as often as it is wide, the neighbours along each axis.

    `beyond` is what lies outside the image.
    """
    axes = range(len(x.shape) - 1)
    for _ in range(WIDTH):
        neighbours = [x]
        for axis in axes:
            frame = [[1, 1] if axis == other else [0, 0] for other in axes] + [[0, 0]]
            padded = tf.pad(x, frame, constant_values=beyond)
            before = [slice(None)] * axis
            neighbours += [padded[(*before, slice(-2))], padded[(*before, slice(2, None))]]
        x = tf.reduce_max(neighbours, axis=0)
    return x


def _blur_first_axis(grey):
    """The Gaussian along the first axis, whole grey levels; that axis goes last for the next pass.

    In SciPy's precision and order of summation: the last bit decides whether 255 · Σ w is 254.
    Beyond its border the image is mirrored, as often as the Gaussian reaches.
    """
    size = tf.shape(grey)[0]
    place = tf.range(-RADIUS, size + RADIUS) % (2 * size)
    padded = tf.gather(grey, tf.minimum(place, 2 * size - 1 - place))
    total = GAUSSIAN[RADIUS] * grey
    for i in range(RADIUS):
        end = 2 * RADIUS - i
        total += GAUSSIAN[i] * (padded[i : i + size] + padded[end : end + size])
    rank = len(grey.shape)
    return tf.transpose(tf.floor(total), [*range(1, rank), 0])
