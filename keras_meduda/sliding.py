"""Sliding-window inference: a network goes over an image that is larger than it was trained on."""

import itertools
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from keras import ops


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
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "stride", stride)

    def starts(self, shape) -> list[list[int]]:
        """First pixel of every window along each axis of an image of the spatial `shape`."""
        if len(shape) != len(self.size):
            raise ValueError(f"SlidingWindow: size {self.size} for an image of shape {shape}.")
        return [
            [min(i * step, n - min(side, n)) for i in range(max(0, -(-(n - side) // step)) + 1)]
            for n, side, step in zip(shape, self.size, self.stride, strict=True)
        ]

    def profile(self, side) -> np.ndarray:
        """Weights of a window's pixels along an axis of `side` pixels; those of axes multiply."""
        distance = (np.arange(side) - (side - 1) / 2) / (side / 8)
        weights = np.exp(-0.5 * distance**2) if self.gaussian else np.ones(side)
        return np.maximum(weights, 1e-3).astype("float32")


def sliding_window(network, images, window):
    """Weighted mean of what a network gives in all windows that a pixel lies in.

    y(x) = Σ_k w(x − x_k) y_k(x − x_k) / Σ_k w(x − x_k). Windows form a grid and their weights are
    products of one factor an axis, so that the sums are done one axis after the other. Windows go
    through the network one after the other; only their logits are held together.

    Args:
        network: function of `(batch, *window, in)` that gives logits `(batch, *window, channels)`.
        images: `(batch, *spatial, in)`; the spatial shape is known when the graph is built.
        window: `SlidingWindow`.

    Returns:
        `(batch, *spatial, channels)` float32.

    Source:
        `EncoderDecoder.slide_inference` of MMSegmentation (equal weights); nnU-Net (Gaussian).

    Example:
        >>> images = np.random.default_rng(0).normal(size=(1, 20, 30, 2)).astype("float32")
        >>> y = sliding_window(lambda x: 2 * x, images, SlidingWindow((8, 8), (5, 5)))
        >>> bool(np.allclose(y, 2 * images, atol=1e-6))
        True
    """
    shape = tuple(images.shape[1:-1])
    sides = [min(side, n) for side, n in zip(window.size, shape, strict=True)]
    starts = window.starts(shape)
    windows = ops.stack(
        [
            images[(slice(None), *(slice(a, a + n) for a, n in zip(corner, sides, strict=True)))]
            for corner in itertools.product(*starts)
        ]
    )
    y = ops.cast(ops.map(network, windows), "float32")
    counts = [len(firsts) for firsts in starts]
    y = ops.reshape(y, (*counts, -1, *sides, y.shape[-1]))
    for axis in reversed(range(len(shape))):  # (n_0, …, n_axis, batch, w_0, …, w_axis, …)
        y = _overlap_add(y, axis, 2 * axis + 2, starts[axis], shape[axis], window)
    return y


def _overlap_add(y, grid_axis, axis, starts, length, window):
    """Lays windows along one axis: `grid_axis` is summed away, the axis grows to `length`."""
    axis -= 1  # of one window, without the grid axis
    side = y.shape[axis + 1]
    profile, total = window.profile(side), np.zeros(length, "float32")
    column = (-1,) + (1,) * (len(y.shape) - 2 - axis)
    result = 0.0
    for number, start in enumerate(starts):
        total[start : start + side] += profile
        part = ops.take(y, number, axis=grid_axis) * np.reshape(profile, column)
        pad = [(0, 0)] * len(part.shape)
        pad[axis] = (start, length - start - side)
        result = result + ops.pad(part, pad)
    return result / np.reshape(total, column)
