"""Losses on logits, each a function with its equation; written in `keras.ops`.

Throughout, `logits` and `mask` are `(batch, *spatial, channels)`; a mask is one-hot with background
first where classes exclude each other, one 0/1 map a class where they overlap. Everything is summed
in float32: half precision overflows at 512 × 512.
"""

from keras_meduda.losses.category_regularization import (
    adversarial,
    alignment,
    binary_logits,
    boundary,
    class_weights,
    consistency_sums,
    discriminative,
    entropy_map,
    moving_prototypes,
    nearest,
    prototype_sums,
    prototypes,
    ramp,
    rectified_weights,
    rising_threshold,
    seen,
    stochastic_moments,
)
from keras_meduda.losses.foundation_distillation import (
    dynamic_weights,
    feature_distance,
    mask_distances,
    ulwr_weights,
    weight_spread,
    with_background,
)
from keras_meduda.losses.kl_distillation import (
    kl_divergence,
    marginal_kl,
)
from keras_meduda.losses.supervised import (
    cross_entropy,
    dice_loss,
    focal_loss,
    joint_dice_loss,
    mouse_dice,
    probabilities,
    ratlesnet,
    segmentation,
)

__all__ = [
    "adversarial",
    "alignment",
    "binary_logits",
    "boundary",
    "class_weights",
    "consistency_sums",
    "cross_entropy",
    "dice_loss",
    "discriminative",
    "dynamic_weights",
    "entropy_map",
    "feature_distance",
    "focal_loss",
    "joint_dice_loss",
    "kl_divergence",
    "marginal_kl",
    "mask_distances",
    "mouse_dice",
    "moving_prototypes",
    "nearest",
    "probabilities",
    "prototype_sums",
    "prototypes",
    "ramp",
    "ratlesnet",
    "rectified_weights",
    "rising_threshold",
    "seen",
    "segmentation",
    "stochastic_moments",
    "ulwr_weights",
    "weight_spread",
    "with_background",
]
