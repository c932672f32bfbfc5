"""Where images are cut out."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import tensorflow as tf


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
        object.__setattr__(self, "size", _whole("RandomCrop", self.size, 2))

    def sample(self, seed, labels):
        """First row and column `(2,)` of one draw on labels `(H, W)`."""
        room = tf.cast(tf.shape(labels) - self.size + 1, "float32")
        draws = self.draws if self.max_share < 1 else 0
        places = tf.cast(tf.random.stateless_uniform([draws + 1, 2], seed) * room, "int32")

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
class RandomPatch:
    """Where a patch of an image is read: around a labelled voxel, or anywhere.

    Args:
        size: of the patch, in pixels or voxels of the prepared image.
        foreground: share of the source's patches that are centred on a voxel of some class, drawn
            from all of them alike and moved inside where the patch would leave the image. The
            others, and all those of a target, lie anywhere. Default ⅓.

    Raises:
        ValueError: a size that is not two or three positive whole numbers, or a share outside of
            0…1.

    Source:
        `oversample_foreground_percent` of nnU-Net, there 0.33.

    Example:
        >>> patch = RandomPatch((4, 4, 4), foreground=1.0)
        >>> patch.sample((0, 1), (16, 16, 16), voxels=tf.constant([0])).numpy().tolist()
        [0, 0, 0]
    """

    size: tuple[int, ...]
    foreground: float = 1 / 3

    def __post_init__(self):
        object.__setattr__(self, "size", _whole("RandomPatch", self.size, 2, 3))
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"RandomPatch: foreground={self.foreground}; expected 0 to 1.")

    def sample(self, seed, size, voxels=None):
        """First voxel `(rank,)` of one draw.

        Args:
            seed: `(2,)` integers.
            size: of the image.
            voxels: flat indices of labelled voxels, perhaps none. Default: the patch lies anywhere.
        """
        seeds = tf.random.split(seed, 3)
        last = tf.constant(size) - self.size
        u = tf.random.stateless_uniform([len(self.size)], seeds[0])
        anywhere = tf.minimum(tf.cast(u * tf.cast(last + 1, "float32"), "int32"), last)
        if voxels is None:
            return anywhere
        count = tf.size(voxels)
        drawn = tf.random.stateless_uniform([], seeds[1], 0, tf.maximum(count, 1), dtype="int32")
        centre = tf.unravel_index(tf.concat([voxels, [0]], axis=0)[drawn], size)
        around = tf.clip_by_value(centre - tf.constant(self.size) // 2, 0, last)
        chosen = tf.random.stateless_uniform([], seeds[2]) < self.foreground
        return tf.where(chosen & (count > 0), around, anywhere)


def _whole(name, size, *ranks):
    """A size as a tuple of positive whole numbers, as many as one of the ranks."""
    found = tuple(size) if np.iterable(size) else (size,)
    if len(found) not in ranks or not all(isinstance(n, Integral) and n > 0 for n in found):
        number = " or ".join({2: "two", 3: "three"}[rank] for rank in ranks)
        raise ValueError(f"{name}: size {size}; expected {number} positive whole numbers.")
    return tuple(int(n) for n in found)
