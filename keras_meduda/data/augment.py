"""Random augmentation of 2D images in graph code; sampling stands apart from applying.

Everything is stateless: a seed `(2,)` in, the same augmentation out. Images are float32 `(H, W, C)`
in 0…255 (or z-scored, for geometry alone); zero strength is the identity.
"""

import math
from dataclasses import dataclass
from numbers import Integral

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

    def apply(self, image, draw, nearest=False):
        """See `warp`."""
        return warp(image, draw, nearest)


def on_grid(transform, size, grid):
    """A transform of an image's pixels as one of a coarser grid over the same image.

    Args:
        transform: `(8,)`, as `Geometry.sample` makes it.
        size: `(height, width)` of the image.
        grid: `(rows, columns)` of the grid, such as that of an embedding.
    """
    a, b, x0, c, d, y0 = tf.unstack(transform[:6])
    sx, sy = grid[1] / size[1], grid[0] / size[0]
    x, y = 0.5 / sx - 0.5, 0.5 / sy - 0.5  # the pixel under the centre of the first cell
    u0 = (a * x + b * y + x0 + 0.5) * sx - 0.5
    v0 = (c * x + d * y + y0 + 0.5) * sy - 0.5
    return tf.stack([a, b * sx / sy, u0, c * sy / sx, d, v0, 0.0, 0.0])


def warp(image, transform, nearest=False, border="REFLECT"):
    """An image `(H, W, C)` moved by a projective transform, mirrored at the border.

    With `border="CONSTANT"` there is black beyond it.
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST" if nearest else "BILINEAR",
        fill_mode=border,
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
    """An image `(H, W, C)` in 0…255 with one `Photometry` draw applied, kept in 0…255."""
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


@dataclass(frozen=True)
class RandomCrop:
    """Where a labelled image is cut out: not where one category fills nearly all of it.

    A place is drawn again, up to `draws` times, while one label covers `max_share` of the crop or
    more; the last draw is taken as it is.

    Args:
        size: of the crop, `(height, width)` in pixels of the prepared image.
        max_share: largest share of one label, background included. Default 0.75; 1 for any place.
        draws: how often a place is drawn again. Default 10.

    Raises:
        ValueError: a size that is not two positive whole numbers.

    Source:
        `RandomCrop(cat_max_ratio=0.75)` of MMSegmentation.
    """

    size: tuple[int, int]
    max_share: float = 0.75
    draws: int = 10

    def __post_init__(self):
        size = tuple(self.size)
        if len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise ValueError(f"RandomCrop: size {size}; expected two positive whole numbers.")
        object.__setattr__(self, "size", size)

    def sample(self, seed, labels):
        """First row and column `(2,)` of one draw on labels `(H, W)`."""
        room = tf.cast(tf.shape(labels) - self.size + 1, "float32")
        places = tf.cast(tf.random.stateless_uniform([self.draws + 1, 2], seed) * room, "int32")

        def mixed(place):
            counts = tf.math.bincount(tf.cast(tf.slice(labels, place, self.size), "int32"))
            share = tf.cast(tf.reduce_max(counts), "float32") / (self.size[0] * self.size[1])
            return share < self.max_share

        fits = tf.map_fn(mixed, places[:-1], fn_output_signature=tf.bool)
        fits = tf.concat([fits, [True]], 0)
        return places[tf.argmax(tf.cast(fits, "int32"))]  # the first that fits, or the last

    def apply(self, image, place):
        """The part `(*size, C)` of an image `(H, W, C)` that begins at `place`."""
        return tf.slice(image, tf.concat([place, [0]], 0), (*self.size, image.shape[-1]))


@dataclass(frozen=True)
class Deformation:
    """A bolder geometry than `Geometry`, as UDA_CLR has it; there is black beyond the border.

    Args:
        stretch: largest relative change of each axis on its own; of what grows larger than the
            image a random part is kept. Default 0.5.
        turns: whether to turn by a quarter, a half or three quarters. Default `True`.
        flips: whether to mirror left-right and top-down, with probability ½ each. Default `True`.
        elastic: standard deviation of a smooth random displacement, as a share of the side. Default
            0.008, that of α = 2 and σ = 0.08 sides in the form of Simard et al. (2003).
        probability: of stretch, turns and displacement, each. Default 0.5.

    Source:
        UDA_CLR (arXiv 2207.03684).
    """

    stretch: float = 0.5
    turns: bool = True
    flips: bool = True
    elastic: float = 0.008
    probability: float = 0.5

    def sample(self, seed, height, width):
        """One draw: the output-to-input `transform` and the `displacement` `(H, W, 2)`, in pixels.

        The displacement, y and x, comes after the transform.
        """
        seeds = tf.random.split(seed, 3)
        u = tf.random.stateless_uniform([7], seeds[0])
        on = tf.cast(tf.random.stateless_uniform([3], seeds[1]) < self.probability, "float32")
        side = tf.cast(tf.stack([height, width]), "float32")
        grown = 1.0 + on[0] * self.stretch * (2.0 * u[:2] - 1.0)
        shift = (u[2:4] - 0.5) * side * tf.maximum(grown - 1.0, 0.0)
        quarters = on[1] * tf.floor(1.0 + 3.0 * u[4]) if self.turns else 0.0
        flip = tf.where(u[5:7] < 0.5, -1.0, 1.0) if self.flips else tf.ones([2])
        cos = tf.round(tf.cos(quarters * math.pi / 2))
        sin = tf.round(tf.sin(quarters * math.pi / 2))
        turn = tf.stack([tf.stack([cos, -sin]), tf.stack([sin, cos])])
        linear = turn * flip / grown[:, None]
        centre = (side - 1.0) / 2.0
        offset = centre + shift / grown - tf.linalg.matvec(linear, centre)
        (yy, yx), (xy, xx) = tf.unstack(linear[0]), tf.unstack(linear[1])
        bends = _smooth_noise(seeds[2], height, width) * (on[2] * self.elastic * side)
        return {
            "transform": tf.stack([xx, xy, offset[1], yx, yy, offset[0], 0.0, 0.0]),
            "displacement": bends,
        }

    def apply(self, image, draw, nearest=False):
        """An image `(H, W, C)` with one draw applied."""
        moved = warp(image, draw["transform"], nearest, border="CONSTANT")
        return displace(moved, draw["displacement"], nearest)


def displace(image, displacement, nearest=False):
    """An image `(H, W, C)` read at every pixel's position plus its displacement `(H, W, 2)`."""
    size = tf.shape(image)[:2]
    grid = tf.stack(tf.meshgrid(tf.range(size[0]), tf.range(size[1]), indexing="ij"), axis=-1)
    place = tf.cast(grid, "float32") + displacement
    place = tf.clip_by_value(place, 0.0, tf.cast(size - 1, "float32"))
    if nearest:
        return tf.gather_nd(image, tf.cast(tf.round(place), "int32"))
    corner = tf.cast(tf.floor(place), "int32")
    share = place - tf.floor(place)
    result = 0.0
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = tf.reduce_prod(tf.where(tf.cast(step, "bool"), share, 1.0 - share), axis=-1)
        result += weight[..., None] * tf.gather_nd(image, tf.minimum(corner + step, size - 1))
    return result


def _smooth_noise(seed, height, width, sigma=0.08):
    """Two Gaussian random fields `(H, W, 2)` of unit variance; σ of their bumps as share of a side.

    Bumps one σ apart: with all pixels as centres the field would look the same.
    """
    centres = tf.range(-3.0, 1.0 / sigma + 3.0)
    noise = tf.random.stateless_normal([2, len(centres), len(centres)], seed)
    bumps = []
    for side in (height, width):
        place = (tf.range(side, dtype="float32") + 0.5) / (sigma * tf.cast(side, "float32"))
        bump = tf.exp(-0.5 * (place[:, None] - centres) ** 2)
        bumps.append(bump / tf.norm(bump, axis=1, keepdims=True))
    return tf.transpose(bumps[0] @ noise @ tf.transpose(bumps[1]), [1, 2, 0])


@dataclass(frozen=True)
class Degradation:
    """What spoils a picture before the network sees it, as UDA_CLR has it.

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
