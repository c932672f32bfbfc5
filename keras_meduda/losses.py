"""Losses on logits, each a function with its equation; written in `keras.ops`.

Throughout, `logits` and `mask` are `(batch, *spatial, channels)`; a mask is one-hot with background
first where classes exclude each other, one 0/1 map a class where they overlap. Everything is summed
in float32: half precision overflows at 512 × 512.
"""

from keras import ops


def probabilities(logits, overlapping):
    """Class probabilities of logits: a sigmoid each if `overlapping`, else a softmax.

    Example:
        >>> float(probabilities(ops.zeros((1, 2, 2, 3)), overlapping=True)[0, 0, 0, 0])
        0.5
    """
    logits = ops.cast(logits, "float32")
    return ops.sigmoid(logits) if overlapping else ops.softmax(logits, axis=-1)


def cross_entropy(mask, logits, overlapping):
    """Mean cross-entropy over pixels: −Σ_c y_c log p_c, binary per channel where classes overlap.

    For overlapping classes mean_{pixels, c} of −y log σ(z) − (1 − y) log(1 − σ(z)). Where classes
    exclude each other, a pixel whose one-hot vector is zero (ignored) adds nothing to the sum.

    Example:
        >>> mask = ops.ones((1, 2, 2, 1))
        >>> round(float(cross_entropy(mask, ops.zeros((1, 2, 2, 1)), overlapping=True)), 4)
        0.6931
    """
    logits, mask = ops.cast(logits, "float32"), ops.cast(mask, "float32")
    if overlapping:
        return ops.mean(ops.softplus(logits) - mask * logits)
    return -ops.mean(ops.sum(mask * ops.log_softmax(logits, axis=-1), axis=-1))


def dice_loss(mask, logits, overlapping, smooth=1.0):
    """1 − Dice: 1 − mean_{n,c} (2 Σ p y + s) / (Σ p + Σ y + s), per image and class.

    Per image, so that the mean over a batch split among workers is the mean over the batch; the
    background channel of exclusive classes is left out.

    Args:
        mask: one-hot or 0/1 maps, `(batch, *spatial, channels)`.
        logits: same shape.
        overlapping: whether classes overlap.
        smooth: s, which makes an absent class that is not predicted score 1. Default 1.

    Example:
        >>> mask = ops.ones((1, 8, 8, 1))
        >>> round(float(dice_loss(mask, 100 * mask, overlapping=True)), 4)
        0.0
    """
    p, mask = probabilities(logits, overlapping), ops.cast(mask, "float32")
    if not overlapping:
        p, mask = p[..., 1:], mask[..., 1:]
    space = tuple(range(1, len(p.shape) - 1))
    overlap = ops.sum(p * mask, axis=space)
    total = ops.sum(p, axis=space) + ops.sum(mask, axis=space)
    return 1.0 - ops.mean((2.0 * overlap + smooth) / (total + smooth))


def segmentation(mask, logits, overlapping):
    """The supervised loss ½·cross-entropy + ½·(1 − Dice)."""
    return 0.5 * (cross_entropy(mask, logits, overlapping) + dice_loss(mask, logits, overlapping))


def kl_divergence(teacher_logits, student_logits, overlapping, temperature=1.0, weight=None):
    """KL(teacher ‖ student) at a temperature, T² · mean_pixels Σ_c p_T (log p_T − log p_S).

    p = softmax(z / T); of overlapping classes the Bernoulli KL, summed over channels. The teacher's
    logits carry no gradient.

    Args:
        teacher_logits: `(batch, *spatial, channels)`.
        student_logits: same shape.
        overlapping: whether classes overlap.
        temperature: T. Default 1.
        weight: pixel weights `(batch, *spatial)`; the weighted sum is divided by the number of
            pixels, not by the sum of the weights. Default 1 everywhere.

    Source:
        Hinton et al., Distilling the knowledge in a neural network (2015), section 2.

    Example:
        >>> z = ops.reshape(ops.arange(6.0), (1, 1, 2, 3))
        >>> float(kl_divergence(z, z, overlapping=False, temperature=2.0))
        0.0
    """
    z_t = ops.stop_gradient(ops.cast(teacher_logits, "float32")) / temperature
    z_s = ops.cast(student_logits, "float32") / temperature
    if overlapping:
        p = ops.sigmoid(z_t)
        kl = p * (z_t - z_s) - ops.softplus(z_t) + ops.softplus(z_s)
    else:
        log_p = ops.log_softmax(z_t, axis=-1)
        kl = ops.exp(log_p) * (log_p - ops.log_softmax(z_s, axis=-1))
    kl = ops.sum(kl, axis=-1)
    return temperature**2 * ops.mean(kl if weight is None else weight * kl)


def marginal_kl(source, target, overlapping):
    """KL between two class distributions `(channels,)`: Σ_c p_s (log p_s − log p_t).

    Bernoulli per channel where classes overlap. Used on mean predictions of two domains.
    """
    tiny = 1e-7
    kl = source * (ops.log(source + tiny) - ops.log(target + tiny))
    if overlapping:
        kl += (1 - source) * (ops.log(1 - source + tiny) - ops.log(1 - target + tiny))
    return ops.sum(kl)
