"""Supervised losses: cross-entropy, Dice in its forms, focal."""

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


def dice_loss(mask, logits, overlapping, smooth=1.0, weight=None):
    """1 − Dice: 1 − mean_{n,c} (2 Σ p y + s) / (Σ p + Σ y + s), per image and class.

    With weights w of pixels the mean over n and c of v (1 − (2 Σ u p y + s) / (Σ u p + Σ u y + s)),
    where v is the image's largest weight and u = w / v: what all pixels share weighs the image.

    Per image, so that the mean over a batch split among workers is the mean over the batch; the
    background channel of exclusive classes is left out, and so are their ignored pixels, whose
    one-hot vector is zero.

    Args:
        mask: one-hot or 0/1 maps, `(batch, *spatial, channels)`.
        logits: same shape.
        overlapping: whether classes overlap.
        smooth: s, which makes an absent class that is not predicted score 1. Default 1.
        weight: w, 0 or more, `(batch, *spatial, 1)`, such as 1 − 4 V of a teacher in doubt. Default
            `None`: 1.

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
    overlap, total = p * mask, (p, mask)
    if weight is not None:
        most = ops.max(weight, axis=space, keepdims=True)
        share = weight / ops.maximum(most, 1e-6)
        overlap, total = share * overlap, (share * p, share * mask)
    total = sum(ops.sum(part, axis=space) for part in total)
    dice = (2.0 * ops.sum(overlap, axis=space) + smooth) / (total + smooth)
    if weight is None:
        return 1.0 - ops.mean(dice)
    return ops.mean(ops.squeeze(most, axis=space) * (1.0 - dice))


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


def ratlesnet(mask, logits, overlapping):
    """Cross-entropy + 1 − 2 Σ_{c,x} p y / (Σ (p² + y²) + 1e-6), the mean over a batch.

    The original adds its Dice term up over a batch, which it trains one by one; with two it would
    fall below 0, so here it is a mean.

    Source:
        RatLesNetV2 (Valverde et al. 2020, Front. Neurosci. 14:610239).

    Example:
        >>> mask = ops.one_hot(ops.ones((1, 4, 4, 4), "int32"), 2)
        >>> round(float(ratlesnet(mask, 100 * mask, overlapping=False)), 4)
        0.0
    """
    dice = joint_dice_loss(mask, logits, overlapping, epsilon=5e-7)
    return cross_entropy(mask, logits, overlapping) + dice


def mouse_dice(mask, logits, overlapping, epsilon=1e-6):
    """1 − mean_{n,c} 2 Σ p y / (Σ p + Σ y + ε), the background a class like every other.

    In contrast to `dice_loss` a class that is absent costs 1, whatever is predicted.

    Args:
        mask: one-hot or 0/1 maps, `(batch, *spatial, channels)`.
        logits: same shape.
        overlapping: whether classes overlap.
        epsilon: ε. Default 1e-6.

    Source:
        `MyDiceLoss` of the mouse study (MJHossainSNMBU/Mice-Brain-Lesion-Segmentation-3D-MRI-).

    Example:
        >>> mask = ops.one_hot(ops.ones((1, 4, 4, 4), "int32"), 2)
        >>> round(float(mouse_dice(mask, 100 * mask, overlapping=False)), 4)  # no background
        0.5
    """
    p, mask = probabilities(logits, overlapping), ops.cast(mask, "float32")
    p *= _counted(mask, overlapping)
    space = tuple(range(1, len(p.shape) - 1))
    total = ops.sum(p, axis=space) + ops.sum(mask, axis=space) + epsilon
    return 1.0 - ops.mean(2.0 * ops.sum(p * mask, axis=space) / total)


def _counted(mask, overlapping):
    """0 in ignored pixels, whose one-hot vector is zero, else 1; overlapping maps have none."""
    return 1.0 if overlapping else ops.sum(mask, axis=-1, keepdims=True)
