"""Random augmentation of 2D images in graph code; sampling stands apart from applying.

Everything is stateless: a seed `(2,)` in, the same augmentation out. Images are float32 `(H, W, C)`
in 0…255 (or z-scored, for geometry alone); zero strength is the identity.
"""

import math
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Geometry:
    """How far an image is moved: image, mask and style twin go through the same draw.

    Args:
        flip: whether to mirror left-right, with probability ½. Default `True`.
        rotation: largest angle, in degrees. Default 20.
        scale: largest relative change of size; 0.2 draws from 1/1.2 to 1.2. Default 0.2.
        shift: largest translation as a share of the side. Default 0.05.
    """

    flip: bool = True
    rotation: float = 20.0
    scale: float = 0.2
    shift: float = 0.05

    def sample(self, seed, height, width):
        """The output-to-input projective transform `(8,)` of one draw."""
        u = tf.random.stateless_uniform([5], seed, -1.0, 1.0)
        angle = u[0] * math.radians(self.rotation)
        zoom = tf.exp(u[1] * math.log1p(self.scale))
        mirror = tf.where(u[2] < 0, -1.0, 1.0) if self.flip else 1.0
        cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
        h, w = tf.cast(height, "float32"), tf.cast(width, "float32")
        cy, cx = (h - 1) / 2, (w - 1) / 2
        dy, dx = u[3] * self.shift * h, u[4] * self.shift * w
        a, b, c, d = mirror * cos, -mirror * sin, sin, cos
        x0, y0 = cx + dx - a * cx - b * cy, cy + dy - c * cx - d * cy  # about the centre
        return tf.stack([a, b, x0, c, d, y0, 0.0, 0.0])


def warp(image, transform, nearest=False):
    """An image `(H, W, C)` moved by a projective transform, mirrored at the border."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST" if nearest else "BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )[0]


@dataclass(frozen=True)
class Photometry:
    """How far an image's appearance is changed, as another camera would.

    Args:
        brightness: largest shift, as a share of the range. Default 0.2.
        contrast: largest relative change about the mean. Default 0.3.
        gamma: largest exponent (and its inverse) is 1 + gamma. Default 0.5.
        colour: largest relative change of each channel on its own. Default 0.2.
        saturation: largest relative change of the distance to grey. Default 0.4.
        blur: largest standard deviation of a Gaussian, in pixels. Default 1.5.
        noise: largest standard deviation of Gaussian noise, as a share of the range. Default 0.03.
        probability: of each of the changes. Default 0.8.
    """

    brightness: float = 0.2
    contrast: float = 0.3
    gamma: float = 0.5
    colour: float = 0.2
    saturation: float = 0.4
    blur: float = 1.5
    noise: float = 0.03
    probability: float = 0.8

    def sample(self, seed):
        """One draw: a dictionary of numbers, neutral where a change is not made."""
        u = tf.random.stateless_uniform([9], seed, -1.0, 1.0)
        seeds = tf.random.split(seed, 2)
        on = tf.cast(tf.random.stateless_uniform([7], seeds[0]) < self.probability, "float32")
        return {
            "brightness": on[0] * u[0] * self.brightness,
            "contrast": tf.exp(on[1] * u[1] * math.log1p(self.contrast)),
            "gamma": tf.exp(on[2] * u[2] * math.log1p(self.gamma)),
            "colour": tf.exp(on[3] * u[3:6] * math.log1p(self.colour)),
            "saturation": tf.exp(on[4] * u[6] * math.log1p(self.saturation)),
            "blur": on[5] * tf.abs(u[7]) * self.blur,
            "noise": on[6] * tf.abs(u[8]) * self.noise,
            "noise_seed": seeds[1],
        }


def recolour(image, draw):
    """An image `(H, W, C)` in 0…255 with one `Photometry` draw applied, kept in 0…255."""
    x = tf.clip_by_value(image / 255.0, 0.0, 1.0)
    if image.shape[-1] == 3:
        x *= draw["colour"]
        grey = tf.reduce_mean(x, axis=-1, keepdims=True)
        x = grey + draw["saturation"] * (x - grey)
    mean = tf.reduce_mean(x)
    x = mean + draw["contrast"] * (x - mean) + draw["brightness"]
    x = tf.clip_by_value(x, 0.0, 1.0) ** draw["gamma"]
    x = blur(x, draw["blur"])
    x += draw["noise"] * tf.random.stateless_normal(tf.shape(x), draw["noise_seed"])
    return 255.0 * tf.clip_by_value(x, 0.0, 1.0)


def blur(image, sigma, radius=4):
    """Gaussian blur of an image `(H, W, C)`; σ in pixels, a σ of 0 is the identity."""
    offsets = tf.range(-radius, radius + 1, dtype="float32")
    kernel = tf.exp(-0.5 * (offsets / tf.maximum(sigma, 1e-3)) ** 2)
    kernel /= tf.reduce_sum(kernel)
    channels = image.shape[-1]
    padded = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "SYMMETRIC")[None]
    for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
        weights = tf.tile(tf.reshape(kernel, shape), [1, 1, channels, 1])
        padded = tf.nn.depthwise_conv2d(padded, weights, [1, 1, 1, 1], "VALID")
    return padded[0]
