"""Adaptation by discriminators and by class prototypes (BEAL, UDA_CLR).

A prototype is the mean feature of a class or of its background: rows of `(2 · classes, width)`, the
classes first. A row of zeros stands for one that has not been seen.
"""

import math

from keras import ops


def boundary(target, logits):
    """Mean squared error of a boundary map, mean (σ(b) − y_b)².

    Args:
        target: y_b in 0…1, `(batch, *spatial, 1)`.
        logits: b; same shape.

    Source:
        BEAL (arXiv 1906.11143).

    Example:
        >>> round(float(boundary(ops.ones((1, 2, 2, 1)), ops.zeros((1, 2, 2, 1)))), 4)
        0.25
    """
    return ops.mean(ops.square(ops.sigmoid(ops.cast(logits, "float32")) - target))


def adversarial(logits, label):
    """Cross-entropy of a discriminator's logits to one domain label: mean of log(1 + eᶻ) − l · z.

    Args:
        logits: of any shape.
        label: l, 1 for the source and 0 for the target.

    Example:
        >>> round(float(adversarial(ops.zeros((1, 3, 3, 1)), 1.0)), 4)
        0.6931
    """
    logits = ops.cast(logits, "float32")
    return ops.mean(ops.softplus(logits) - label * logits)


def entropy_map(p):
    """What a discriminator sees of a prediction: −p log(p + 1e-7), channel by channel.

    Args:
        p: probabilities, of any shape.

    Source:
        BEAL (arXiv 1906.11143).

    Example:
        >>> [round(float(h), 4) for h in entropy_map(ops.convert_to_tensor([0.0, 0.5]))]
        [0.0, 0.3466]
    """
    p = ops.cast(p, "float32")
    return -p * ops.log(p + 1e-7)


def binary_logits(logits, overlapping):
    """Logits whose sigmoid is the probability of a class, whether or not classes overlap.

    z itself where they overlap; else each class against the rest, z_c − log Σ_{r≠c} exp(z_r).

    Args:
        logits: z, `(…, classes)`.
        overlapping: whether classes overlap.

    Example:
        >>> z = ops.convert_to_tensor([[1.0, -2.0, 0.5]])
        >>> bool(ops.all(abs(ops.sigmoid(binary_logits(z, False)) - ops.softmax(z)) < 1e-6))
        True
    """
    logits = ops.cast(logits, "float32")
    if overlapping:
        return logits
    itself = ops.eye(logits.shape[-1], dtype="float32")
    return logits - ops.logsumexp(logits[..., None, :] - 1e9 * itself, axis=-1)


def nearest(x, size):
    """The nearest pixels of a map, src = ⌊dst · in / out⌋ as PyTorch.

    Args:
        x: `(batch, *spatial, channels)`.
        size: pixels of each spatial axis that are wanted.

    Returns:
        `(batch, *size, channels)`.

    Example:
        >>> nearest(ops.reshape(ops.arange(5), (1, 5, 1)), (3,))[0, :, 0].numpy().tolist()
        [0, 1, 3]
    """
    for axis, target in enumerate(size, 1):
        x = ops.take(x, ops.arange(target) * ops.shape(x)[axis] // target, axis=axis)
    return x


def class_weights(y):
    """Weights of the pixels for prototypes of classes, y, then backgrounds, 1 − y.

    Args:
        y: masks or probabilities, `(batch, *spatial, classes)`.

    Returns:
        `(batch, *spatial, 2 · classes)`.

    Example:
        >>> class_weights(ops.convert_to_tensor([[1.0, 0.25]])).numpy().tolist()
        [[1.0, 0.25, 0.0, 0.75]]
    """
    return ops.concatenate([y, 1.0 - y], axis=-1)


def rectified_weights(p, mean, deviation, confidence=0.75, certainty=0.04):
    """Weights of an unlabelled image's pixels: m ŷ P̄ for classes, m (1 − ŷ)(1 − P̄) for backgrounds.

    ŷ = 1[p > confidence], m = 1[S < certainty]; no gradient passes.

    Args:
        p: probabilities, `(batch, *spatial, classes)`.
        mean: P̄, those of stochastic passes on average; same shape.
        deviation: S, their standard deviation; same shape.
        confidence: above which a pixel belongs to a class. Default 0.75.
        certainty: below which a pixel counts. Default 0.04.

    Returns:
        `(batch, *spatial, 2 · classes)`.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> p, mean, deviation = (ops.full((1, 1), v) for v in (0.8, 0.9, 0.01))
        >>> [round(float(w), 2) for w in rectified_weights(p, mean, deviation)[0]]
        [0.9, 0.0]
    """
    y = ops.cast(p > confidence, "float32")
    certain = ops.cast(deviation < certainty, "float32")
    weights = ops.concatenate([certain * y * mean, certain * (1.0 - y) * (1.0 - mean)], axis=-1)
    return ops.stop_gradient(weights)


def stochastic_moments(logits):
    """Mean of σ(z) and standard deviation (unbiased) of σ(z / 2) over stochastic passes.

    Args:
        logits: binary logits of two or more passes, `(passes, batch, *spatial, classes)`.

    Returns:
        P̄ and S, each `(batch, *spatial, classes)`, without gradient.

    Raises:
        ValueError: one pass, which has no deviation.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> mean, deviation = stochastic_moments(ops.convert_to_tensor([[0.0], [0.0]]))
        >>> float(mean[0]), float(deviation[0])
        (0.5, 0.0)
    """
    if logits.shape[0] < 2:
        raise ValueError(f"stochastic_moments: {logits.shape[0]} pass; expected 2 or more.")
    logits = ops.stop_gradient(ops.cast(logits, "float32"))
    soft = ops.sigmoid(logits / 2.0)
    square = ops.sum(ops.square(soft - ops.mean(soft, axis=0)), axis=0)
    return ops.mean(ops.sigmoid(logits), axis=0), ops.sqrt(square / (logits.shape[0] - 1.0))


def prototype_sums(features, weights):
    """Σ w f and Σ w over the pixels of a batch, so that workers can add theirs up.

    Args:
        features: `(batch, *spatial, width)`.
        weights: at the same resolution, `(batch, *spatial, rows)`.

    Returns:
        `(rows, width)` and `(rows,)`.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> pixels, weights = ops.reshape(ops.arange(4.0), (1, 4, 1)), ops.ones((1, 4, 1))
        >>> [float(ops.squeeze(x)) for x in prototype_sums(pixels, weights)]
        [6.0, 4.0]
    """
    features = ops.reshape(ops.cast(features, "float32"), (-1, features.shape[-1]))
    weights = ops.reshape(weights, (-1, weights.shape[-1]))
    return ops.matmul(ops.transpose(weights), features), ops.sum(weights, axis=0)


def prototypes(sums, counts):
    """Weighted means of features, Σ w f / Σ w, and zeros where no pixel counted.

    Args:
        sums: Σ w f, `(rows, width)`.
        counts: Σ w, `(rows,)`.

    Example:
        >>> sums, counts = (ops.convert_to_tensor(v) for v in ([[6.0], [0.0]], [4.0, 0.0]))
        >>> prototypes(sums, counts).numpy().tolist()
        [[1.5], [0.0]]
    """
    counts = counts[:, None]
    return ops.where(counts > 1e-6, sums / ops.maximum(counts, 1e-6), 0.0)


def seen(prototypes):
    """1 for prototypes of something, 0 for rows of zeros.

    Args:
        prototypes: `(rows, width)`.

    Returns:
        `(rows,)`.

    Example:
        >>> seen(ops.convert_to_tensor([[0.0, 2.0], [0.0, 0.0]])).numpy().tolist()
        [1.0, 0.0]
    """
    return ops.cast(ops.any(prototypes != 0.0, axis=-1), "float32")


def moving_prototypes(previous, batch, share=0.9):
    """Moving average c ← (1 − g) c_previous + g c_batch; the gradient passes the batch alone.

    What the batch does not hold keeps its prototype, what was never seen before takes the batch's.

    Args:
        previous: `(rows, width)`.
        batch: `(rows, width)`.
        share: g, of the batch. Default 0.9.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> moving = moving_prototypes(ops.full((1, 1), 1.0), ops.full((1, 1), 2.0))
        >>> round(float(moving[0, 0]), 4)
        1.9
    """
    previous = ops.stop_gradient(previous)
    g = seen(batch) * (1.0 - (1.0 - share) * seen(previous))
    return previous + g[:, None] * (batch - previous)


def alignment(source, target):
    """Σ_rows mean (c_s − c_t)², over prototypes that both domains have seen.

    Args:
        source: c_s, `(2 · classes, width)`.
        target: c_t; same shape.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> float(alignment(ops.ones((4, 3)), 3 * ops.ones((4, 3))))
        16.0
    """
    both = seen(source) * seen(target)
    return ops.sum(both * ops.mean(ops.square(source - target), axis=-1))


def discriminative(features, mask, prototypes, margin=0.01):
    """Draws the pixels of a class to its prototype and away from its background's.

    Σ_c mean y ⌊d(f, c_o) − d(f, c_k) + m⌋₊ + mean (1 − y) ⌊d(f, c_k) − d(f, c_o) + m⌋₊ with the
    mean squared difference d; classes for which one of the two is not seen are left out.

    Args:
        features: f, `(batch, *spatial, width)`.
        mask: y, at the same resolution, `(batch, *spatial, classes)`.
        prototypes: `(2 · classes, width)`.
        margin: m. Default 0.01.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> prototypes = ops.convert_to_tensor([[1.0], [-1.0]])  # of the class, of its background
        >>> pixels = ops.convert_to_tensor([[[0.9], [-0.9]]])
        >>> mask = ops.convert_to_tensor([[[1.0], [0.0]]])
        >>> float(discriminative(pixels, mask, prototypes))
        0.0
    """
    features = ops.cast(features, "float32")
    classes, backgrounds = ops.split(prototypes, 2, axis=0)
    # d(f, c_o) − d(f, c_k): the squares of the features cancel
    squares = ops.mean(ops.square(classes) - ops.square(backgrounds), axis=-1)
    between = 2.0 / features.shape[-1] * (classes - backgrounds)
    nearer = squares - ops.matmul(features, ops.transpose(between))
    hinge = mask * ops.relu(margin + nearer) + (1.0 - mask) * ops.relu(margin - nearer)
    axes = tuple(range(len(hinge.shape) - 1))
    return ops.sum(seen(classes) * seen(backgrounds) * ops.mean(hinge, axis=axes))


def consistency_sums(logits, pseudo_label, certain):
    """Σ m · BCE(σ(z), ŷ) and Σ m; their ratio, over all workers, is the consistency loss.

    Args:
        logits: binary logits of an augmented image, `(batch, *spatial, classes)`.
        pseudo_label: ŷ, of the image as it is; same shape.
        certain: m, the weight of each decision; same shape.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> z, y, m = (ops.convert_to_tensor(v) for v in ([0.0, 9.0], [1.0, 0.0], [1.0, 0.0]))
        >>> [round(float(x), 4) for x in consistency_sums(z, y, m)]
        [0.6931, 1.0]
    """
    logits = ops.cast(logits, "float32")
    entropy = ops.softplus(logits) - pseudo_label * logits
    return ops.sum(certain * entropy), ops.sum(certain)


def ramp(progress, end):
    """Sigmoid-shaped rise from e⁻⁵ to 1 over the first part of a training: exp(−5 (1 − t / end)²).

    An end of 0 is no rise: 1 from the start.

    Args:
        progress: t, share of the training that is done.
        end: share at which the rise is over.

    Source:
        Laine and Aila, Temporal ensembling (arXiv 1610.02242).

    Example:
        >>> [round(float(ramp(t, 0.4)), 4) for t in (0.0, 0.2, 0.4, 1.0)]
        [0.0067, 0.2865, 1.0, 1.0]
    """
    return ops.exp(-5.0 * ops.square(1.0 - ops.minimum(progress / end, 1.0))) if end else 1.0


def rising_threshold(progress, end=0.4):
    """Probability above which a pixel is a pseudo label: τ = (0.85 + 0.25 · ramp) · ln 2.

    From 0.590 to 0.762.

    Args:
        progress: share of the training that is done.
        end: share at which τ is at its top. Default 0.4, 200 of 500 epochs.

    Source:
        UDA_CLR (arXiv 2207.03684).

    Example:
        >>> [round(float(rising_threshold(t)), 3) for t in (0.0, 0.4)]
        [0.59, 0.762]
    """
    return (0.85 + 0.25 * ramp(progress, end)) * math.log(2.0)
