"""Sliding-window inference as graph code, for served models."""

import itertools

from keras import ops

from keras_meduda.run.sliding import outer, plan


def sliding_window_graph(network, images, window):
    """`sliding_window` as graph code, in which nothing is added in place.

    A row of windows is added up before the next begins, then the rows of a slice, so that few
    logits are held beside the result.

    Args:
        network: as there.
        images: `(batch, *spatial, in)`; the spatial shape is known when the graph is built.
        window: `SlidingWindow`.

    Returns:
        `(batch, *spatial, channels)` float32.
    """
    images = ops.convert_to_tensor(images)
    shape = tuple(images.shape[1:-1])
    starts, profiles, totals = plan(window, shape)
    size = (ops.shape(images)[0], *map(len, profiles), images.shape[-1])

    def sum_from(corner):
        """The weighted sum of all windows whose first pixel begins with these coordinates."""
        axis = len(corner)
        if axis == len(shape):
            y = ops.cast(network(ops.slice(images, ops.stack([0, *corner, 0]), size)), "float32")
            return y * outer(profiles)[..., None] if window.gaussian else y
        firsts = ops.convert_to_tensor(starts[axis], "int32")
        parts = ops.map(lambda first: sum_from((*corner, first)), firsts)
        return _overlap_add(parts, starts[axis], axis + 1)

    return sum_from(()) / outer(totals)[..., None]


def _overlap_add(parts, starts, axis):
    """Sum of `parts[k]`, each laid down at `starts[k]` along an axis.

    Between two starts or ends the same parts overlap: each such piece is added up, then all are
    joined, which touches every value once and pads nothing.
    """
    side = parts.shape[axis + 1]
    pieces = []
    for low, high in itertools.pairwise(sorted({*starts, *(first + side for first in starts)})):
        here = [k for k, first in enumerate(starts) if first <= low and high <= first + side]
        before = (slice(None),) * axis
        cut = [parts[(k, *before, slice(low - starts[k], high - starts[k]))] for k in here]
        pieces.append(sum(cut[1:], cut[0]))
    return ops.concatenate(pieces, axis)
