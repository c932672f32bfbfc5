"""Distillation of a foundation model's soft masks and embeddings (MedDistill).

Distances and weights are one an image, because the uncertainty that weighs the terms is one an
image.
"""

from keras import ops

from keras_meduda.losses.supervised import probabilities


def mask_distances(teacher, logits, overlapping=True, weight=1.0):
    """Cross-entropy and squared error to a soft mask M, both means over pixels of w times each.

    Where classes overlap log(1 + eᶻ) − M z and (σ(z) − M)², means over channels as well; where they
    exclude each other −Σ_c M_c log p_c and the mean over channels of (p_c − M_c)², p = softmax(z).

    Args:
        teacher: the soft mask M in 0…1, `(batch, *spatial, channels)`.
        logits: z, same shape.
        overlapping: whether classes overlap. Default `True`.
        weight: w of each pixel, `(batch, *spatial, 1)`, such as 1 − 4 V of a teacher in doubt.
            Default 1.

    Returns:
        Two tensors `(batch,)`.

    Example:
        >>> half = 0.5 * ops.ones((1, 4, 4, 1))
        >>> [round(float(d[0]), 4) for d in mask_distances(half, ops.zeros((1, 4, 4, 1)))]
        [0.6931, 0.0]
    """
    logits, teacher = ops.cast(logits, "float32"), ops.cast(teacher, "float32")
    axes = tuple(range(1, len(logits.shape)))
    if overlapping:
        entropy = ops.mean(weight * (ops.softplus(logits) - teacher * logits), axis=axes)
    else:
        entropy = -ops.sum(weight * teacher * ops.log_softmax(logits, axis=-1), axis=-1)
        entropy = ops.mean(entropy, axis=axes[:-1])
    error = ops.square(probabilities(logits, overlapping) - teacher)
    return entropy, ops.mean(weight * error, axis=axes)


def with_background(masks):
    """Soft masks of exclusive classes with their background first, adding up to 1 in each pixel.

    b = max(0, 1 − Σ_c M_c); where classes claim more than the whole, all are divided by their sum.

    Args:
        masks: M in 0…1, one a class, `(batch, *spatial, classes)`.

    Returns:
        `(batch, *spatial, classes + 1)`.

    Example:
        >>> masks = ops.convert_to_tensor([[0.5, 0.25], [1.0, 1.0]])
        >>> with_background(masks).numpy().tolist()
        [[0.25, 0.5, 0.25], [0.0, 0.5, 0.5]]
    """
    total = ops.sum(masks, axis=-1, keepdims=True)
    masks = ops.concatenate([ops.maximum(0.0, 1.0 - total), masks], axis=-1)
    return masks / ops.maximum(total, 1.0)


def feature_distance(student, teacher, normalised=True):
    """Mean squared difference of two feature maps, each pixel's vector first scaled to length 1.

    It is then (2 − 2 cos) / C on average over pixels: bounded, and free of either network's scale.

    Args:
        student: `(batch, *spatial, channels)`.
        teacher: same shape.
        normalised: `False` compares the vectors as they are. Default `True`.

    Returns:
        `(batch,)`.

    Example:
        >>> x = ops.ones((1, 2, 2, 8))
        >>> round(float(feature_distance(3 * x, -x)[0]), 4)
        0.5
    """
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    if normalised:
        student, teacher = _unit(student), _unit(teacher)
    return ops.mean(ops.square(student - teacher), axis=tuple(range(1, len(student.shape))))


def ulwr_weights(variance, terms=3):
    """Weights of the terms (BCE, MSE, features): w = u / Σ u, u = (1/(σ² + 1e-6), σ(1 − σ²), 0.4).

    σ² is a teacher's variance, at most ¼, where w = (0.788, 0.134, 0.079); with a confident teacher
    w₁ goes to 1.

    Args:
        variance: σ², `(batch,)`.
        terms: how many there are; 2 without features. Default 3.

    Returns:
        `(batch, terms)`.

    Source:
        MedDistill (BUCT-IUSRC).

    Example:
        >>> [round(float(w), 4) for w in ulwr_weights(ops.convert_to_tensor([0.25]))[0]]
        [0.7875, 0.1337, 0.0788]
    """
    variance = ops.cast(variance, "float32")
    u = [1.0 / (variance + 1e-6), ops.sigmoid(1.0 - variance), ops.full_like(variance, 0.4)]
    u = ops.stack(u[:terms], axis=-1)
    return u / ops.sum(u, axis=-1, keepdims=True)


def weight_spread(weights, strength=0.1):
    """R = β Σ_k (w_k − mean w)², `(batch,)`; constant where the weights are, so without a gradient.

    Source:
        MedDistill (BUCT-IUSRC), β = 0.1.
    """
    away = weights - ops.mean(weights, axis=-1, keepdims=True)
    return strength * ops.sum(ops.square(away), axis=-1)


def dynamic_weights(last, before, temperature=2.0):
    """Dynamic weight average: w = K · softmax(r / T), r = L(t − 1) / L(t − 2), at first 1.

    Args:
        last: mean losses of the last period, `(K,)`; not above 0 where there is none yet.
        before: those of the period before it.
        temperature: T. Default 2.

    Source:
        Liu, Johns and Davison, End-to-end multi-task learning with attention (2019), section 3.3.

    Example:
        >>> last, before = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([2.0, 2.0])
        >>> [round(float(w), 4) for w in dynamic_weights(last, before)]
        [0.8756, 1.1244]
    """
    known = before > 0
    ratio = ops.where(known, last / ops.where(known, before, 1.0), 1.0)
    return ratio.shape[0] * ops.softmax(ratio / temperature)


def _unit(x):
    """Vectors of length 1 along the last axis; a zero stays zero."""
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)
