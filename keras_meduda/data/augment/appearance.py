"""How images look: what a change of camera or scanner does to them, as random draws."""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_meduda.data.augment.effects import Effect


@dataclass(frozen=True)
class Photometry(Effect):
    """How far the appearance of an 8-bit image is changed, as another camera would.

    Args:
        brightness: largest shift, as a share of the range. Default 0.2.
        contrast: largest relative change about the mean. Default 0.3.
        gamma: largest exponent (and its inverse) is 1 + gamma. Default 0.5.
        colour: largest relative change of each channel on its own. Default 0.2.
        saturation: largest relative change of the distance to grey. Default 0.4.
        blur: largest standard deviation of a Gaussian, in pixels; it is cut at 4. Default 1.5.
        noise: largest standard deviation of Gaussian noise, as a share of the range. Default 0.03.
        hue: largest turn of the colours, as a share of their circle. Default 0.
        grey: probability that an image loses its colours. Default 0.
        probability: of each of the other changes. Default 0.8.
    """

    brightness: float = 0.2
    contrast: float = 0.3
    gamma: float = 0.5
    colour: float = 0.2
    saturation: float = 0.4
    blur: float = 1.5
    noise: float = 0.03
    hue: float = 0.0
    grey: float = 0.0
    probability: float = 0.8
    zscored = False

    def sample(self, seed):
        """One draw: a dictionary of numbers, neutral where a change is not made."""
        u = tf.random.stateless_uniform([9], seed, -1.0, 1.0)
        seeds = tf.random.split(seed, 2)
        on = tf.cast(tf.random.stateless_uniform([7], seeds[0]) < self.probability, "float32")
        draw = {
            "brightness": on[0] * u[0] * self.brightness,
            "contrast": tf.exp(on[1] * u[1] * math.log1p(self.contrast)),
            "gamma": tf.exp(on[2] * u[2] * math.log1p(self.gamma)),
            "colour": tf.exp(on[3] * u[3:6] * math.log1p(self.colour)),
            "saturation": tf.exp(on[4] * u[6] * math.log1p(self.saturation)),
            "blur": on[5] * tf.abs(u[7]) * self.blur,
            "noise": on[6] * tf.abs(u[8]) * self.noise,
            "noise_seed": seeds[1],
        }
        if self.hue or self.grey:
            v = tf.random.stateless_uniform([3], tf.random.fold_in(seed, 1))
            turned = tf.cast(v[0] < self.probability, "float32")
            draw["hue"] = turned * (2.0 * v[1] - 1.0) * self.hue
            draw["saturation"] *= tf.cast(v[2] >= self.grey, "float32")
        return draw

    def apply(self, image, draw):
        """See `recolour`."""
        return recolour(image, draw)


def recolour(image, draw):
    """An image `(*size, C)` in 0…255 with one `Photometry` draw applied, kept in 0…255."""
    x = tf.clip_by_value(image / 255.0, 0.0, 1.0)
    if image.shape[-1] == 3:
        if "hue" in draw:
            x = tf.image.adjust_hue(x, draw["hue"])
        x *= draw["colour"]
        grey = tf.reduce_mean(x, axis=-1, keepdims=True)
        x = grey + draw["saturation"] * (x - grey)
    mean = tf.reduce_mean(x)
    x = mean + draw["contrast"] * (x - mean) + draw["brightness"]
    x = tf.clip_by_value(x, 0.0, 1.0) ** draw["gamma"]
    x = blur(x, draw["blur"])
    x += draw["noise"] * tf.random.stateless_normal(tf.shape(x), draw["noise_seed"])
    return 255.0 * tf.clip_by_value(x, 0.0, 1.0)


@dataclass(frozen=True)
class Intensity(Effect):
    """How far the intensities of a z-scored image are changed, as another scanner would.

    Voxels that are exactly 0 stay so: the background of `zscore_foreground`.

    Args:
        brightness: largest shift, in standard deviations. Default 0.3.
        contrast: largest relative change about the mean. Default 0.3.
        gamma: largest exponent (and its inverse) is 1 + gamma, of intensities between the least
            and the greatest. Default 0.5.
        blur: largest standard deviation of a Gaussian, in pixels; it is cut at 4. Default 1.
        noise: largest standard deviation of Gaussian noise, in the units of z-scores. Default 0.1.
        probability: of each change. Default 0.8.

    Example:
        >>> intensity = Intensity()
        >>> volume = tf.random.stateless_normal([8, 9, 7, 1], seed=(0, 0))
        >>> intensity.apply(volume, intensity.sample((1, 2))).shape
        TensorShape([8, 9, 7, 1])
    """

    brightness: float = 0.3
    contrast: float = 0.3
    gamma: float = 0.5
    blur: float = 1.0
    noise: float = 0.1
    probability: float = 0.8
    zscored = True

    def sample(self, seed):
        """One draw: a dictionary of numbers, neutral where a change is not made."""
        seeds = tf.random.split(seed, 3)
        u = tf.random.stateless_uniform([5], seeds[0], -1.0, 1.0)
        on = tf.cast(tf.random.stateless_uniform([5], seeds[1]) < self.probability, "float32")
        return {
            "brightness": on[0] * u[0] * self.brightness,
            "contrast": tf.exp(on[1] * u[1] * math.log1p(self.contrast)),
            "gamma": tf.exp(on[2] * u[2] * math.log1p(self.gamma)),
            "blur": on[3] * tf.abs(u[3]) * self.blur,
            "noise": on[4] * tf.abs(u[4]) * self.noise,
            "noise_seed": seeds[2],
        }

    def apply(self, image, draw):
        """See `rescan`."""
        return rescan(image, draw)


def rescan(image, draw):
    """A z-scored image `(*size, C)` with one `Intensity` draw applied."""
    inside = image != 0
    count = tf.maximum(tf.reduce_sum(tf.cast(inside, "float32")), 1.0)
    mean = tf.reduce_sum(image) / count
    low, high = tf.reduce_min(image), tf.reduce_max(image)
    x = low + (high - low) * tf.math.divide_no_nan(image - low, high - low) ** draw["gamma"]
    x = mean + draw["contrast"] * (x - mean) + draw["brightness"]
    x = blur(tf.where(inside, x, 0.0), draw["blur"])
    x += draw["noise"] * tf.random.stateless_normal(tf.shape(x), draw["noise_seed"])
    return tf.where(inside, x, 0.0)


def blur(image, sigma, radius=4):
    """Gaussian blur of an image `(*size, C)`; σ in pixels, a σ of 0 is the identity."""
    offsets = tf.range(-radius, radius + 1, dtype="float32")
    kernel = tf.exp(-0.5 * (offsets / tf.maximum(sigma, 1e-3)) ** 2)
    kernel /= tf.reduce_sum(kernel)
    *size, channels = image.shape
    if len(size) == 3:  # along the first axis; the others are those of a batch of slices
        first = _mirrored(image, 0, radius)
        weights = tf.reshape(kernel, [-1, 1, 1, 1])
        first = tf.reshape(first, (1, size[0] + 2 * radius, -1, 1))
        image = tf.reshape(tf.nn.conv2d(first, weights, 1, "VALID"), image.shape)
    slices = image if len(size) == 3 else image[None]
    padded = _mirrored(_mirrored(slices, 1, radius), 2, radius)
    for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
        weights = tf.tile(tf.reshape(kernel, shape), [1, 1, channels, 1])
        padded = tf.nn.depthwise_conv2d(padded, weights, [1, 1, 1, 1], "VALID")
    return padded if len(size) == 3 else padded[0]


def _mirrored(x, axis, margin):
    """A tensor that goes on as its mirror image at both ends of an axis, however short that is."""
    n = x.shape[axis]
    if n >= margin:
        sides = [[margin * (a == axis)] * 2 for a in range(len(x.shape))]
        return tf.pad(x, sides, "SYMMETRIC")
    place = np.arange(-margin, n + margin) % (2 * n)
    return tf.gather(x, np.minimum(place, 2 * n - 1 - place), axis=axis)


@dataclass(frozen=True)
class Degradation(Effect):
    """What spoils an 8-bit picture before the network sees it, as UDA_CLR has it.

    Args:
        speckle: share of values that turn white (a fifth of it) or black (four fifths), each in a
            quarter of the images. Default 0.004.
        gamma: γ is drawn between these, and grey levels become 255 · (x / 255)^(1/γ). Default 0.5
            to 3.5.
        eraser: area of a rectangle of one random colour, drawn between these shares of the image;
            it is 0.3 to 0.6 times as high as wide. Default 0.02 to 0.06.
        probability: of γ and eraser, and of speckle of either kind together. Default 0.5.

    Source:
        UDA_CLR (arXiv 2207.03684).
    """

    speckle: float = 0.004
    gamma: tuple[float, float] = (0.5, 3.5)
    eraser: tuple[float, float] = (0.02, 0.06)
    probability: float = 0.5
    zscored = False
    pictures_only = True

    def sample(self, seed):
        """One draw: a dictionary of numbers, neutral where a change is not made."""
        seeds = tf.random.split(seed, 3)
        u = tf.random.stateless_uniform([7], seeds[0])
        on = tf.random.stateless_uniform([3], seeds[1]) < self.probability
        salted, peppered = on[0] & (u[0] < 0.5), on[0] & (u[0] >= 0.5)
        area, ratio = _between(self.eraser, u[2]), _between((0.3, 0.6), u[3])
        return {
            "salt": 0.2 * self.speckle * tf.cast(salted, "float32"),
            "pepper": 0.8 * self.speckle * tf.cast(peppered, "float32"),
            "speckle_seed": seeds[2],
            "gamma": tf.where(on[1], _between(self.gamma, u[1]), 1.0),
            "box": tf.cast(on[2], "float32") * tf.sqrt(tf.stack([area * ratio, area / ratio])),
            "corner": u[4:6],
            "value": 255.0 * u[6],
        }

    def apply(self, image, draw):
        """See `degrade`."""
        return degrade(image, draw)


def degrade(image, draw):
    """An image `(H, W, C)` in 0…255 with one `Degradation` draw applied, kept in 0…255."""
    u = tf.random.stateless_uniform(tf.shape(image), draw["speckle_seed"])
    x = tf.where(u < draw["salt"], 255.0, tf.where(u > 1.0 - draw["pepper"], 0.0, image))
    x = 255.0 * tf.clip_by_value(x / 255.0, 0.0, 1.0) ** (1.0 / draw["gamma"])
    side = tf.cast(tf.shape(image)[:2], "float32")
    top, left = tf.unstack(tf.round(draw["corner"] * (1.0 - draw["box"]) * side))
    height, width = tf.unstack(tf.round(draw["box"] * side))
    row, column = tf.range(side[0])[:, None], tf.range(side[1])
    inside = (top <= row) & (row < top + height) & (left <= column) & (column < left + width)
    return tf.where(inside[..., None], draw["value"], x)


def _between(limits, share):
    return limits[0] + (limits[1] - limits[0]) * share
