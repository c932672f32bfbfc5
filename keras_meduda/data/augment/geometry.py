"""How images move: image, mask, style twin and teacher go through the same draw."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

CHUNK = 2**18  # voxels that are moved at a time: 64 × 64 × 64, some 30 MB


@dataclass(frozen=True)
class Geometry:
    """How far an image is moved, in two dimensions or three: mirrored, turned, scaled, shifted.

    Args:
        flip: the axes along which to mirror, with probability ½ each, by their letters in
            `Preprocessing.axes`: `"X"`, the same as `True`, is left-right, `"XYZ"` all of a
            volume's; a picture knows no other than X. Default `True`.
        rotation: largest angle, in degrees; of a volume about each axis, or one an axis in the
            order of the array. It turns pixels, not millimetres: where slices are thicker than
            their pixels are wide, as in `(20, 0, 0)` about the axis across them alone. Default 20.
        scale: largest relative change of size; 0.2 draws from 1/1.2 to 1.2. Default 0.2.
        shift: largest translation as a share of the side. Default 0.05.

    Raises:
        ValueError: an axis that is not one of X, Y and Z, or angles that are neither one nor three.

    Example:
        >>> volume = tf.random.stateless_normal([8, 9, 7, 1], seed=(0, 0))
        >>> geometry = Geometry(flip="XY", rotation=(0, 0, 15))
        >>> draw = geometry.sample((1, 2), 8, 9, 7)
        >>> geometry.apply(volume, draw).shape
        TensorShape([8, 9, 7, 1])
    """

    flip: bool | str = True
    rotation: float | tuple[float, float, float] = 20.0
    scale: float = 0.2
    shift: float = 0.05

    def __post_init__(self):
        if not isinstance(self.flip, bool) and (set(self.flip) - set("XYZ") or not self.flip):
            raise ValueError(
                f"Geometry: flip={self.flip!r}; expected True, False or axes, such as 'XY'."
            )
        if np.size(self.rotation) not in (1, 3):
            raise ValueError(
                f"Geometry: rotation={self.rotation!r}; expected one angle, or three for a volume."
            )

    def sample(self, seed, *size, axes=None):
        """The output-to-input transform of one draw.

        Args:
            seed: `(2,)` integers.
            *size: of the image along each axis.
            axes: the letters of these axes. Default `"YX"` for a picture, `"XYZ"` for a volume.

        Returns:
            `(8,)` for a picture, projective; `(3, 4)` for a volume, affine.

        Raises:
            ValueError: a picture that is to be mirrored top-down, or with three angles.
        """
        flip = {True: "X", False: ""}.get(self.flip, self.flip)
        if len(size) == 3:
            return self._sample_volume(seed, size, [a in flip for a in axes or "XYZ"])
        if flip not in ("", "X") or np.ndim(self.rotation):
            raise ValueError(
                f"Geometry: flip={self.flip!r}, rotation={self.rotation!r}; a picture is mirrored "
                "along X alone and turned by one angle."
            )
        height, width = size
        u = tf.random.stateless_uniform([5], seed, -1.0, 1.0)
        angle = u[0] * math.radians(self.rotation)
        zoom = tf.exp(u[1] * math.log1p(self.scale))
        mirror = tf.where(u[2] < 0, -1.0, 1.0) if flip else 1.0
        cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
        h, w = tf.cast(height, "float32"), tf.cast(width, "float32")
        cy, cx = (h - 1) / 2, (w - 1) / 2
        dy, dx = u[3] * self.shift * h, u[4] * self.shift * w
        a, b, c, d = mirror * cos, -mirror * sin, sin, cos
        x0, y0 = cx + dx - a * cx - b * cy, cy + dy - c * cx - d * cy  # about the centre
        return tf.stack([a, b, x0, c, d, y0, 0.0, 0.0])

    def _sample_volume(self, seed, size, flip):
        u = tf.random.stateless_uniform([10], seed, -1.0, 1.0)
        angles = u[:3] * tf.constant(np.radians(np.broadcast_to(self.rotation, 3)), "float32")
        zoom = tf.exp(u[3] * math.log1p(self.scale))
        mirror = tf.where(flip & (u[4:7] < 0), -1.0, 1.0)
        size = tf.cast(size, "float32")
        linear = tf.linalg.diag(zoom * mirror)
        for axis in range(3):
            linear @= _turn(axis, angles[axis])
        centre = (size - 1) / 2
        offset = centre + u[7:] * self.shift * size - tf.linalg.matvec(linear, centre)
        return tf.concat([linear, offset[:, None]], axis=1)

    def apply(self, image, draw, nearest=False):
        """An image `(*size, C)` with one draw applied; see `warp` and `warp_volume`."""
        move = warp_volume if len(image.shape) == 4 else warp
        return move(image, draw, nearest)


def _turn(axis, angle):
    """The rotation `(3, 3)` about one axis of a volume."""
    plane = np.diag([float(i != axis) for i in range(3)])
    quarter = np.roll(np.roll([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]], axis + 1, 0), axis + 1, 1)
    plane, quarter = plane.astype("float32"), quarter.astype("float32")
    return np.eye(3, dtype="float32") + (tf.cos(angle) - 1.0) * plane + tf.sin(angle) * quarter


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


def warp_volume(volume, affine, nearest=False):
    """A volume `(D, H, W, C)` moved by an affine transform, mirrored at the border.

    out(x) = in(A·(x, 1)): trilinear, or the nearest voxel. Never more than `CHUNK` voxels are on
    their way at a time.

    Args:
        volume: of a static shape; any dtype if `nearest`, else float32.
        affine: `(3, 4)`, from the result's voxels to the volume's.
        nearest: `True` for labels. Default `False`.

    Returns:
        A tensor of the volume's shape and dtype.

    Example:
        >>> line = tf.reshape(tf.range(4.0), (4, 1, 1, 1))
        >>> shift = tf.constant([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]])
        >>> warp_volume(line, shift).numpy().ravel().tolist()
        [0.5, 1.5, 2.5, 3.0]
    """
    *size, channels = volume.shape
    rows = min(size[0], max(1, CHUNK // (size[1] * size[2])))
    chunks = -(-size[0] // rows)
    voxels = tf.reshape(volume, (-1, channels))

    def chunk(first):
        grid = [tf.range(first, first + rows), tf.range(size[1]), tf.range(size[2])]
        grid = [tf.cast(g, "float32") for g in grid]
        grid = grid[0][:, None, None], grid[1][:, None], grid[2]
        places = []
        for axis, n in enumerate(size):
            place = sum(affine[axis, b] * grid[b] for b in range(3)) + affine[axis, 3]
            place = n - tf.abs((place + 0.5) % (2 * n) - n) - 0.5  # mirrored
            places.append(tf.clip_by_value(place, 0.0, n - 1.0))
        read = _nearest if nearest else _trilinear
        return read(voxels, places, size)

    moved = tf.map_fn(
        chunk, rows * tf.range(chunks), parallel_iterations=1, fn_output_signature=volume.dtype
    )
    return tf.reshape(moved, (chunks * rows, *size[1:], channels))[: size[0]]


def _nearest(voxels, places, size):
    z, y, x = (tf.cast(place + 0.5, "int32") for place in places)
    return tf.gather(voxels, (z * size[1] + y) * size[2] + x)


def _trilinear(voxels, places, size):
    corners = []  # along each axis the voxels before and after, by their share
    for place, n, step in zip(places, size, (size[1] * size[2], size[2], 1), strict=True):
        before = tf.floor(place)
        after = tf.minimum(before + 1.0, n - 1.0)
        share = place - before
        corners.append(
            [(step * tf.cast(i, "int32"), w) for i, w in ((before, 1.0 - share), (after, share))]
        )
    result = 0.0
    for (z, a), (y, b), (x, c) in itertools.product(*corners):
        result += (a * b * c)[..., None] * tf.gather(voxels, z + y + x)
    return result


@dataclass(frozen=True)
class Deformation:
    """A bolder geometry of pictures, as UDA_CLR has it; there is black beyond the border.

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
    for step in np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "int32"):
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
