"""Losses on logits, each a function with its equation; written in `keras.ops`.

Throughout, `logits` and `mask` are `(batch, *spatial, channels)`; a mask is one-hot with background
first where classes exclude each other, one 0/1 map a class where they overlap. Everything is summed
in float32: half precision overflows at 512 × 512.
"""

import math

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
    background channel of exclusive classes is left out, and so are their ignored pixels, whose
    one-hot vector is zero.

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
    p *= _counted(mask, overlapping)
    if not overlapping:
        p, mask = p[..., 1:], mask[..., 1:]
    space = tuple(range(1, len(p.shape) - 1))
    overlap = ops.sum(p * mask, axis=space)
    total = ops.sum(p, axis=space) + ops.sum(mask, axis=space)
    return 1.0 - ops.mean((2.0 * overlap + smooth) / (total + smooth))


def joint_dice_loss(mask, logits, overlapping, epsilon=1e-3):
    """Squared Dice over all channels at once: mean_n 1 − 2 Σ_{c,x} p y / (Σ p² + Σ y² + 2ε).

    Large classes, background among them, outweigh small ones. Where classes exclude each other, a
    pixel whose one-hot vector is zero (ignored) does not count.

    Args:
        mask: one-hot or 0/1 maps, `(batch, *spatial, channels)`.
        logits: same shape.
        overlapping: whether classes overlap.
        epsilon: ε. Default 1e-3.

    Source:
        `DiceLoss` of MMSegmentation 1.1 and later.

    Example:
        >>> mask = ops.ones((1, 8, 8, 1))
        >>> round(float(joint_dice_loss(mask, 100 * mask, overlapping=True)), 4)
        0.0
    """
    p, mask = probabilities(logits, overlapping), ops.cast(mask, "float32")
    p *= _counted(mask, overlapping)
    axes = tuple(range(1, len(p.shape)))
    total = ops.sum(p**2, axis=axes) + ops.sum(mask**2, axis=axes) + 2 * epsilon
    return ops.mean(1.0 - 2.0 * ops.sum(p * mask, axis=axes) / total)


def focal_loss(mask, logits, overlapping, gamma=2.0, alpha=0.5):
    """Sigmoid focal loss, mean over pixels and channels of −α_t (1 − p_t)^γ log p_t.

    p_t is σ(z) where the mask is 1 and 1 − σ(z) elsewhere, α_t likewise α and 1 − α. Each channel
    is a decision of its own even where classes exclude each other; there a pixel whose one-hot
    vector is zero (ignored) adds nothing.

    Args:
        mask: one-hot or 0/1 maps, `(batch, *spatial, channels)`.
        logits: same shape.
        overlapping: whether classes overlap.
        gamma: γ, how much an easy pixel is discounted. Default 2.
        alpha: α, the share of the foreground. Default 0.5.

    Source:
        Lin et al., Focal loss for dense object detection (2017), equation 5.

    Example:
        >>> mask = ops.ones((1, 2, 2, 1))
        >>> round(float(focal_loss(mask, 0 * mask, overlapping=True)), 4)  # ½ · ½² · log 2
        0.0866
    """
    logits, mask = ops.cast(logits, "float32"), ops.cast(mask, "float32")
    p = ops.sigmoid(logits)
    missed = mask + p - 2.0 * mask * p  # 1 − p_t
    weight = (alpha * mask + (1.0 - alpha) * (1.0 - mask)) * missed**gamma
    cross_entropy = ops.softplus(logits) - mask * logits
    return ops.mean(_counted(mask, overlapping) * weight * cross_entropy)


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


def _counted(mask, overlapping):
    """0 in ignored pixels, whose one-hot vector is zero, else 1; overlapping maps have none."""
    return 1.0 if overlapping else ops.sum(mask, axis=-1, keepdims=True)


# Adaptation by discriminators and by class prototypes (BEAL, UDA_CLR). A prototype is the mean
# feature of a class or of its background: rows of `(2 · classes, width)`, the classes first. A row
# of zeros stands for one that has not been seen.


def boundary(target, logits):
    """Mean squared error of a boundary map, mean (σ(b) − y_b)².

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
    """What a discriminator sees of a prediction: −p log(p + 1e-7), channel by channel."""
    return -p * ops.log(p + 1e-7)


def binary_logits(logits, overlapping):
    """Logits whose sigmoid is the probability of a class, whether or not classes overlap.

    z itself where they overlap; else each class against the rest, z_c − log Σ_{r≠c} exp(z_r).

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
    """The nearest pixels `(batch, *size, channels)` of a map, src = ⌊dst · in / out⌋ as PyTorch."""
    for axis, target in enumerate(size, 1):
        x = ops.take(x, ops.arange(target) * ops.shape(x)[axis] // target, axis=axis)
    return x


def class_weights(y):
    """Weights of the pixels for prototypes of classes, y, then backgrounds, 1 − y.

    Args:
        y: masks or probabilities, `(batch, *spatial, classes)`.

    Returns:
        `(batch, *spatial, 2 · classes)`.
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
    """
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
    """
    features = ops.reshape(ops.cast(features, "float32"), (-1, features.shape[-1]))
    weights = ops.reshape(weights, (-1, weights.shape[-1]))
    return ops.matmul(ops.transpose(weights), features), ops.sum(weights, axis=0)


def prototypes(sums, counts):
    """Weighted means of features, Σ w f / Σ w, and zeros where no pixel counted."""
    counts = counts[:, None]
    return ops.where(counts > 1e-6, sums / ops.maximum(counts, 1e-6), 0.0)


def seen(prototypes):
    """1 for prototypes of something, 0 for rows of zeros, `(rows,)`."""
    return ops.cast(ops.any(prototypes != 0.0, axis=-1), "float32")


def moving_prototypes(previous, batch, share=0.9):
    """Moving average c ← (1 − g) c_previous + g c_batch; the gradient passes the batch alone.

    What the batch does not hold keeps its prototype, what was never seen before takes the batch's.

    Args:
        previous: `(rows, width)`.
        batch: `(rows, width)`.
        share: g, of the batch. Default 0.9.
    """
    previous = ops.stop_gradient(previous)
    g = seen(batch) * (1.0 - (1.0 - share) * seen(previous))
    return previous + g[:, None] * (batch - previous)


def alignment(source, target):
    """Σ_rows mean (c_s − c_t)², over prototypes that both domains have seen.

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
    """
    entropy = ops.softplus(logits) - pseudo_label * logits
    return ops.sum(certain * entropy), ops.sum(certain)


def ramp(progress, end):
    """Sigmoid-shaped rise from e⁻⁵ to 1 over the first part of a training: exp(−5 (1 − t / end)²).

    Source:
        Laine and Aila, Temporal ensembling (2017).
    """
    return ops.exp(-5.0 * ops.square(1.0 - ops.minimum(progress / end, 1.0)))


def rising_threshold(progress, end=0.4):
    """Probability above which a pixel is a pseudo label: τ = (0.85 + 0.25 · ramp) · ln 2.

    From 0.590 to 0.762.

    Args:
        progress: share of the training that is done.
        end: share at which τ is at its top. Default 0.4, 200 of 500 epochs.

    Source:
        UDA_CLR (arXiv 2207.03684).
    """
    return (0.85 + 0.25 * ramp(progress, end)) * math.log(2.0)


# Distillation of a foundation model's soft masks and embeddings (MedDistill). Distances and weights
# are one an image, because the uncertainty that weighs the terms is one an image.


def mask_distances(teacher, logits):
    """Cross-entropy and squared error to a soft mask: mean of log(1 + eᶻ) − M z, mean (σ(z) − M)².

    Args:
        teacher: the soft mask M in 0…1, `(batch, *spatial, channels)`.
        logits: z, same shape.

    Returns:
        Two tensors `(batch,)`.

    Example:
        >>> half = 0.5 * ops.ones((1, 4, 4, 1))
        >>> [round(float(d[0]), 4) for d in mask_distances(half, ops.zeros((1, 4, 4, 1)))]
        [0.6931, 0.0]
    """
    logits, teacher = ops.cast(logits, "float32"), ops.cast(teacher, "float32")
    axes = tuple(range(1, len(logits.shape)))
    bce = ops.mean(ops.softplus(logits) - teacher * logits, axis=axes)
    return bce, ops.mean(ops.square(ops.sigmoid(logits) - teacher), axis=axes)


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
    return len(ratio) * ops.softmax(ratio / temperature)


def _unit(x):
    """Vectors of length 1 along the last axis; a zero stays zero."""
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)
