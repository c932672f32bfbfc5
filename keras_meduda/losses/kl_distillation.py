"""Kullback-Leibler divergence of predictions, and of their means over two domains."""

from keras import ops


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
