"""Sliding-window inference: a network goes over an image that is larger than it was trained on."""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from keras_meduda.progress import is_out_of_memory

# Of the windows that go through the network together. On two threads of a processor 64 x 64 pixels
# take 1.7 times as long one by one as 8 together; windows of volumes gain nothing.
WINDOW_PIXELS = {"cpu": 2**15, "gpu": 2**18}


@dataclass(frozen=True)
class SlidingWindow:
    """Where the windows lie and how they are averaged.

    Windows start at 0, stride, 2·stride, …; the last one of an axis ends with the image. A window
    larger than the image is cut to it.

    Args:
        size: of a window, in pixels or voxels of the network's grid, an axis each.
        stride: from one window to the next, likewise. Default: half of `size`, rounded up.
        gaussian: whether a pixel weighs exp(−½ (distance from the centre / (size / 8))²), at least
            1e-3, along every axis, rather than 1. Default `False`.

    Raises:
        ValueError: numbers that are not positive, or a stride that leaves gaps.

    Example:
        >>> SlidingWindow((256, 256), (170, 170)).starts((512, 300))
        [[0, 170, 256], [0, 44]]
    """

    size: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    gaussian: bool = False

    def __post_init__(self):
        size = tuple(self.size)
        stride = tuple(-(-n // 2) for n in size) if self.stride is None else tuple(self.stride)
        whole = all(isinstance(n, Integral) and n > 0 for n in (*size, *stride))
        if not size or not whole or len(size) != len(stride):
            raise ValueError(
                f"SlidingWindow: size {size}, stride {stride}; expected a positive whole number an "
                "axis in both."
            )
        if any(step > side for step, side in zip(stride, size, strict=True)):
            raise ValueError(f"SlidingWindow: stride {stride} leaves gaps between windows {size}.")
        object.__setattr__(self, "size", tuple(map(int, size)))  # NumPy's are no JSON
        object.__setattr__(self, "stride", tuple(map(int, stride)))

    def starts(self, shape) -> list[list[int]]:
        """First pixel of every window along each axis of an image of the spatial `shape`."""
        if len(shape) != len(self.size):
            raise ValueError(f"SlidingWindow: size {self.size} for an image of shape {shape}.")
        return [
            [min(i * step, n - min(side, n)) for i in range(max(0, -(-(n - side) // step)) + 1)]
            for n, side, step in zip(shape, self.size, self.stride, strict=True)
        ]

    @property
    def apart(self):
        """The same windows side by side, without overlap: an eighth of them in volumes.

        Example:
            >>> SlidingWindow((64, 64)).apart.starts((128, 128))
            [[0, 64], [0, 64]]
        """
        return replace(self, stride=self.size)

    def count(self, shape) -> int:
        """How many windows an image of the spatial `shape` has."""
        return math.prod(map(len, self.starts(shape)))

    def profile(self, side) -> np.ndarray:
        """Weights of a window's pixels along an axis of `side` pixels; those of axes multiply."""
        distance = (np.arange(side) - (side - 1) / 2) / (side / 8)
        weights = np.exp(-0.5 * distance**2) if self.gaussian else np.ones(side)
        return np.maximum(weights, 1e-3).astype("float32")


def sliding_window(
    network, images, window, pixels: int = WINDOW_PIXELS["cpu"], devices: int = 1
) -> np.ndarray:
    """Weighted mean of what a network gives in all windows that a pixel lies in.

    y(x) = Σ_k w(x − x_k) y_k(x − x_k) / Σ_k w(x − x_k). Small windows go through the network
    several at a time, as many as `pixels` allow; all are added up in place, so that memory holds
    the result and one batch. Should the network run out of memory, the rest goes one by one.

    Args:
        network: function of `(batch, *window, in)` that gives logits `(batch, *window, channels)`.
        images: `(batch, *spatial, in)`.
        window: `SlidingWindow`.
        pixels: or voxels, of all windows that go through the network together. Default that of
            `WINDOW_PIXELS` for a processor.
        devices: that share what goes through the network at once, as many windows each. Default 1.

    Returns:
        `(batch, *spatial, channels)` float32.

    Raises:
        MemoryError: a single window does not fit (TensorFlow's `ResourceExhaustedError` likewise).

    Source:
        `EncoderDecoder.slide_inference` of MMSegmentation (equal weights); nnU-Net (Gaussian).

    Example:
        >>> images = np.random.default_rng(0).normal(size=(1, 20, 30, 2)).astype("float32")
        >>> y = sliding_window(lambda x: 2 * x, images, SlidingWindow((8, 8), (5, 5)))
        >>> bool(np.allclose(y, 2 * images, atol=1e-6))
        True
    """
    images, result = np.asarray(images), None
    starts, profiles, totals = plan(window, images.shape[1:-1])
    sides, n = [len(profile) for profile in profiles], len(images)
    corners = list(itertools.product(*starts))
    together = devices * windows_together(n, sides, pixels)
    while corners:
        taken = corners[:together]
        places = [
            (slice(None), *(slice(a, a + side) for a, side in zip(corner, sides, strict=True)))
            for corner in taken
        ]
        x = images[places[0]] if len(taken) == 1 else np.concatenate([images[p] for p in places])
        try:
            y = np.asarray(network(x), "float32")
        except Exception as error:
            if len(taken) == 1 or not is_out_of_memory(error):
                raise
            print(f"{len(taken)} windows {x.shape} do not fit in memory; they go one by one.")
            together = 1
            continue
        if result is None:
            channels = np.ones(y.shape[-1], "float32")
            result = np.zeros((*images.shape[:-1], len(channels)), "float32")
            weights = outer([*profiles, channels])
        for place, part in zip(places, y.reshape(len(taken), n, *y.shape[1:]), strict=True):
            result[place] += part * weights if window.gaussian else part
        del corners[: len(taken)]
    of_slice = 1 / outer([*totals[1:], channels])
    for slices, total in zip(np.moveaxis(result, 1, 0), totals[0], strict=True):
        slices *= of_slice * (1 / total)
    return result


def windows_together(images, sides, pixels) -> int:
    """How many windows of so many images go through the network at once."""
    return max(1, pixels // (images * math.prod(sides)))


def plan(window, shape):
    """Starts, weights of a window's pixels, and their sums over all windows, along each axis."""
    starts = window.starts(shape)
    profiles = [window.profile(min(side, n)) for side, n in zip(window.size, shape, strict=True)]
    totals = [
        sum(np.pad(profile, (first, n - first - len(profile))) for first in firsts)
        for profile, firsts, n in zip(profiles, starts, shape, strict=True)
    ]
    return starts, profiles, totals


def outer(vectors):
    """The outer product of vectors."""
    return functools.reduce(np.multiply.outer, vectors)
