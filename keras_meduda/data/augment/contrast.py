"""Contrasts that no scanner of the source has: the order of grey levels may change.

`Photometry` and `Intensity` are increasing maps; T1 and T2, or FLAIR and T2, differ by none. Every
effect here takes pictures and volumes, z-scored or 8-bit. What is 0 in all channels, the background
of `zscore_foreground` and of many 8-bit images, stays exactly 0. Leave about half of the images as
they are: a source that always changes is not learnt.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_meduda.data.augment.appearance import blur
from keras_meduda.data.augment.effects import Effect

SAMPLE = 4096  # values of a foreground from which its quantiles are taken
LEVELS = 33  # quantiles that stand for the histogram of a target image
TABLES, NEAREST = 64, 4  # tables that are drawn, and how many nearest to a target are chosen from


class Levels(tuple):
    """Histograms of target images, their quantiles; shown as a digest, for a run keeps it."""

    def __repr__(self):
        return f"{len(self)} images, {hashlib.sha256(np.array(self).tobytes()).hexdigest()[:16]}"


def levels(images: Iterable[np.ndarray]) -> Levels:
    """Histograms of images for `RandomTable`: quantiles of their z-scored foregrounds.

    Args:
        images: arrays `(*size, C)`, such as prepared images of the target; blank ones are left out.

    Example:
        >>> levels(np.random.default_rng(0).normal(size=(3, 8, 8, 1))).__len__()
        3
    """
    found = []
    for image in images:
        values = np.asarray(image, "float64")
        values = values[(values != 0).any(axis=-1)]
        if values.size and (deviation := values.std()) > 0:
            places = (np.arange(LEVELS) + 0.5) / LEVELS
            scores = np.quantile((values - values.mean()) / deviation, places)
            found.append(tuple(scores.round(4).tolist()))
    return Levels(found)


@dataclass(frozen=True)
class RandomTable(Effect):
    """Sends grey levels to random ones: x ↦ table(x), piecewise linear and seldom monotone.

    The knots lie at equally spaced quantiles of the foreground, their values are drawn from
    U(−1, 1); all channels share the values, each has knots of its own. Afterwards every
    channel has the mean and the deviation that it had, so that z-scores stay z-scores.

    Args:
        knots: number of knots. Default 6.
        targets: what `levels(target images)` gives: of 64 tables one of those 4 is taken whose
            histogram is nearest (1-D Wasserstein) to that of a target image drawn at random.
            Default none, any table.
        probability: that an image is changed. Default 0.5.

    Example:
        >>> table = RandomTable(probability=1.0)
        >>> volume = tf.random.stateless_normal([8, 9, 7, 1], seed=(0, 0))
        >>> table.apply(volume, table.sample((1, 2))).shape
        TensorShape([8, 9, 7, 1])
    """

    knots: int = 6
    targets: Levels = Levels()
    probability: float = 0.5

    def __post_init__(self):
        if self.knots < 2:
            raise ValueError(f"RandomTable: knots={self.knots}; expected two knots or more.")

    def sample(self, seed):
        """One draw: tables to choose from, and the numbers that choose."""
        seeds = tf.random.split(seed, 3)
        count = TABLES if self.targets else 1
        return {
            "on": tf.random.stateless_uniform([], seeds[0]) < self.probability,
            "tables": tf.random.stateless_uniform([count, self.knots], seeds[1], -1.0, 1.0),
            "choice": tf.random.stateless_uniform([2], seeds[2]),
        }

    def apply(self, image, draw):
        """See the class."""
        return tf.cond(draw["on"], lambda: self._changed(image, draw), lambda: image)

    def _changed(self, image, draw):
        inside = _inside(image)
        own = _quantiles(image, inside, self.knots)
        table = draw["tables"][0]
        if self.targets:
            table = tf.gather(draw["tables"], self._nearest(image, inside, own, draw))
        channels = tf.unstack(image, axis=-1)
        mapped = [interpolate(x, own[:, c], table) for c, x in enumerate(channels)]
        return _standing_for(tf.stack(mapped, axis=-1), image, inside)

    def _nearest(self, image, inside, own, draw):
        """Number of one of the tables that bring the first channel nearest to a target image."""
        values = _quantiles(image, inside, LEVELS)[:, 0]
        mapped = tf.map_fn(lambda table: interpolate(values, own[:, 0], table), draw["tables"])
        mean, variance = tf.nn.moments(mapped, axes=[1], keepdims=True)
        scores = tf.sort((mapped - mean) / tf.sqrt(variance + 1e-6))
        targets = tf.constant(self.targets, "float32")
        target = tf.gather(targets, _index(draw["choice"][0], len(self.targets)))
        distances = tf.reduce_mean(tf.abs(scores - target), axis=1)
        nearest = tf.math.top_k(-distances, NEAREST).indices
        return nearest[_index(draw["choice"][1], NEAREST)]


@dataclass(frozen=True)
class GIN(Effect):
    """Shows an image through a small random network: x ↦ α·h(x) + (1 − α)·x, rescaled to ‖x‖.

    h is four convolutions C → 2 → 2 → 2 → C of width 1 or 3, weights and biases from N(0, 1), with
    a leaky ReLU of 0.01 between them; all is drawn anew for every image, α from U(0, strength).
    The image is standardised first. Colour is what a cup is told by: for photographs keep
    `probability` to 0.15 and `strength` to 0.5.

    Args:
        strength: largest α, 0 to 1. Default 1.
        probability: that an image is changed. Default 0.5.

    Source:
        Ouyang et al., Causality-inspired single-source domain generalization (arXiv 2111.12525).

    Example:
        >>> gin = GIN(probability=1.0)
        >>> picture = tf.random.stateless_uniform([16, 16, 3], (0, 0), 0.0, 255.0)
        >>> gin.apply(picture, gin.sample((1, 2))).shape
        TensorShape([16, 16, 3])
    """

    strength: float = 1.0
    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.strength <= 1:
            raise ValueError(f"GIN: strength={self.strength}; expected 0 to 1.")

    def sample(self, seed):
        """One draw: whether, how far, and the seeds of the four layers."""
        seeds = tf.random.split(seed, 5)
        u = tf.random.stateless_uniform([6], seeds[4])
        return {
            "on": u[0] < self.probability,
            "alpha": u[1] * self.strength,
            "wide": u[2:] < 0.5,
            "layers": seeds[:4],
        }

    def apply(self, image, draw):
        """See the class."""
        return tf.cond(draw["on"], lambda: _through_layers(image, draw), lambda: image)


def _through_layers(image, draw):
    inside = _inside(image)
    mean, deviation = _moments(image, inside)
    x = tf.where(inside, tf.math.divide_no_nan(image - mean, deviation), 0.0)
    *size, channels = image.shape
    rank, convolve = len(size), tf.nn.conv2d if len(size) == 2 else tf.nn.conv3d
    centre = np.zeros([3] * rank + [1, 1], "float32")
    centre[(1,) * rank] = 1.0
    h, widths = x[None], (channels, 2, 2, 2, channels)
    for layer in range(4):
        seeds = tf.random.split(draw["layers"][layer], 2)
        shape = [3] * rank + list(widths[layer : layer + 2])
        kernel = tf.random.stateless_normal(shape, seeds[0])
        kernel *= tf.where(draw["wide"][layer], 1.0, centre)
        h = convolve(h, kernel, [1] * (rank + 2), "SAME")
        h += tf.random.stateless_normal([widths[layer + 1]], seeds[1])
        h = tf.nn.leaky_relu(h, 0.01) if layer < 3 else h
    mixed = tf.where(inside, draw["alpha"] * h[0] + (1.0 - draw["alpha"]) * x, 0.0)
    mixed *= tf.math.divide_no_nan(tf.norm(x), tf.norm(mixed))
    return tf.where(inside, mean + deviation * mixed, 0.0)


@dataclass(frozen=True)
class LabelCurves(Effect):
    """Gives each labelled class and the rest a curve of its own: a lesion may turn dark.

    Grey levels between the least and the greatest go through a cubic Bézier curve with random
    control points, decreasing for what has no label, either way for a class; then they are scaled
    by N(1, scale), cut at one deviation, and shifted by N(0, shift) deviations of the image. The
    edges of masks are softened, or they are what is learnt. Where classes overlap the smaller one
    lies on top.

    Args:
        scale: deviation of the factor, and its bound. Default 0.1.
        shift: deviation of the shift, in those of the image. Default 0.5.
        edge: standard deviation of the Gaussian that softens masks, in pixels. Default 0.7.
        probability: that an image is changed. Default 0.5.

    Source:
        SLAug (Su et al., arXiv 2211.14805).

    Example:
        >>> curves = LabelCurves(probability=1.0)
        >>> image, mask = tf.random.stateless_normal([8, 8, 1], (0, 0)), tf.ones([8, 8, 2])
        >>> curves.apply(image, curves.sample((1, 2)), mask).shape
        TensorShape([8, 8, 1])
    """

    scale: float = 0.1
    shift: float = 0.5
    edge: float = 0.7
    probability: float = 0.5
    reads_mask = True

    def sample(self, seed):
        """One draw: whether, and the seed of the curves."""
        seeds = tf.random.split(seed, 2)
        on = tf.random.stateless_uniform([], seeds[0]) < self.probability
        return {"on": on, "seed": seeds[1]}

    def apply(self, image, draw, mask):
        """See the class."""
        return tf.cond(draw["on"], lambda: self._changed(image, draw, mask), lambda: image)

    def _changed(self, image, draw, mask):
        inside = _inside(image)
        x, seed = image, draw["seed"]
        changed = self._curved(x, inside, tf.random.fold_in(seed, 0), falling=True)
        areas = tf.reduce_sum(mask, axis=list(range(len(mask.shape) - 1)))
        order = tf.argsort(areas, direction="DESCENDING")
        soft = blur(tf.gather(mask, order, axis=-1), self.edge)
        for i in range(mask.shape[-1]):
            turn = tf.random.fold_in(seed, 1 + order[i])
            falling = tf.random.stateless_uniform([], tf.random.fold_in(turn, 0)) < 0.5
            curved = self._curved(x, inside, turn, falling)
            changed += soft[..., i : i + 1] * (curved - changed)
        return tf.where(inside, changed, 0.0)

    def _curved(self, image, inside, seed, falling):
        seeds = tf.random.split(seed, 2)
        _, deviation = _moments(image, inside)
        low = tf.reduce_min(tf.where(inside, image, tf.float32.max))
        high = tf.reduce_max(tf.where(inside, image, tf.float32.min))
        levels, values = bezier(tf.random.stateless_uniform([2, 2], seeds[0]))
        values = tf.where(falling, values[::-1], values)
        share = tf.math.divide_no_nan(image - low, high - low)
        y = low + (high - low) * interpolate(share, levels, values)
        factor, offset = tf.unstack(tf.random.stateless_normal([2], seeds[1]))
        factor = 1.0 + self.scale * tf.clip_by_value(factor, -1.0, 1.0)
        return factor * y + self.shift * offset * deviation


def bezier(points, count=33):
    """Levels and values along the cubic Bézier curve from (0, 0) to (1, 1), both increasing.

    Args:
        points: the two control points between, `(2, 2)` in 0…1: each its level and its value.
        count: number of places along the curve. Default 33.
    """
    t = tf.linspace(0.0, 1.0, count)[:, None]
    curve = 3 * (1 - t) ** 2 * t * points[0] + 3 * (1 - t) * t**2 * points[1] + t**3
    return curve[:, 0], curve[:, 1]


def interpolate(x, knots, values):
    """Piecewise linear map of a tensor: `values` at increasing `knots`, constant beyond them."""
    place = tf.searchsorted(knots, tf.reshape(x, [-1]), side="right") - 1
    place = tf.reshape(tf.clip_by_value(place, 0, knots.shape[0] - 2), x.shape)
    low, high = tf.gather(knots, place), tf.gather(knots, place + 1)
    share = tf.clip_by_value(tf.math.divide_no_nan(x - low, high - low), 0.0, 1.0)
    first, last = tf.gather(values, place), tf.gather(values, place + 1)
    return first + share * (last - first)


def _inside(image):
    """Where any channel is not 0, `(*size, 1)`."""
    return tf.reduce_any(image != 0, axis=-1, keepdims=True)


def _moments(image, inside):
    """Mean and deviation of each channel within a foreground, `(C,)` both."""
    axes, weight = list(range(len(image.shape) - 1)), tf.cast(inside, "float32")
    count = tf.maximum(tf.reduce_sum(weight), 1.0)
    mean = tf.reduce_sum(weight * image, axes) / count
    return mean, tf.sqrt(tf.reduce_sum(weight * (image - mean) ** 2, axes) / count)


def _standing_for(changed, image, inside):
    """A changed image with the mean and the deviation of the one it stands for, channel by channel.

    What has lost all contrast is grey.
    """
    mean, deviation = _moments(image, inside)
    own, spread = _moments(changed, inside)
    scores = tf.where(spread > 1e-4, (changed - own) / tf.maximum(spread, 1e-4), 0.0)
    return tf.where(inside, mean + deviation * scores, 0.0)


def _quantiles(image, inside, count):
    """Equally spaced quantiles of each channel's foreground, from its least to its greatest value.

    `(count, C)`; zeros of an image without foreground.
    """
    channels = image.shape[-1]
    flat = tf.reshape(image, [-1, channels])
    values = tf.boolean_mask(flat, tf.reshape(inside, [-1]))
    values = tf.concat([values, flat[:1]], axis=0)[: tf.maximum(tf.shape(values)[0], 1)]
    ordered = tf.sort(values[:: 1 + (tf.shape(values)[0] - 1) // SAMPLE], axis=0)
    last = tf.cast(tf.shape(ordered)[0] - 1, "float32")
    places = tf.cast(tf.round(last * np.linspace(0, 1, count)), "int32")
    return tf.ensure_shape(tf.gather(ordered, places), [count, channels])


def _index(share, count):
    return tf.minimum(tf.cast(share * count, "int32"), count - 1)
