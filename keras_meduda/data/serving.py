"""`Preprocessing` as TensorFlow graph code: what runs inside an exported model."""

import numpy as np
import tensorflow as tf

from keras_meduda.data.intensity import clahe_graph
from keras_meduda.data.spatial import TIE
from keras_meduda.preprocessing import ROUNDING, Preprocessing

STEPS = {"clahe": clahe_graph}  # the counterparts of preprocessing.INTENSITY


def preprocess(images, preprocessing: Preprocessing):
    """The network's input of a batch of uint8 images, as `Preprocessing.apply` makes it.

    Args:
        images: uint8 `(batch, H, W, channels)`; H and W may differ from call to call.
        preprocessing: its settings.

    Returns:
        float32 `(batch, *size, channels)`, with the grey levels of `Preprocessing.stored` but for
        single pixels that rounding after the resize puts one level apart.

    Example:
        >>> import numpy as np
        >>> preprocess(np.zeros((2, 50, 40, 3), "uint8"), Preprocessing(size=(32, 32))).shape
        TensorShape([2, 32, 32, 3])
    """
    x = tf.cast(images, "float32")
    if preprocessing.normalise == "zscore":
        x = resize(x - tf.reduce_min(x, axis=[1, 2, 3], keepdims=True), preprocessing.size)
        mean, variance = tf.nn.moments(x, axes=[1, 2, 3], keepdims=True)
        return tf.math.divide_no_nan(x - mean, tf.sqrt(variance))
    if preprocessing.normalise == "zscore_foreground":
        inside = tf.cast(x, "bool")
        for axis, after in enumerate(preprocessing.size, start=1):
            inside = tf.gather(inside, _nearest(tf.shape(x)[axis], after), axis=axis)
        return _zscore(resize(x, preprocessing.size), inside, axes=[1, 2])
    x = tf.floor(tf.clip_by_value(resize(x, preprocessing.size), 0.0, 255.0) + ROUNDING)
    for name in preprocessing.intensity:
        x = STEPS[name](x)
    return preprocessing.normalised(x)


def resize(images, size):
    """Linear resizing with half-pixel centres, antialiased when shrinking; see `spatial.resize`."""
    return tf.image.resize(images, size, antialias=True)


def preprocess_volume(volume, spacing, preprocessing: Preprocessing):
    """The network's input of one volume, as `Preprocessing.apply` makes it, and its place.

    Args:
        volume: `(X, Y, Z, channels)` as `read_image` gives it, of any shape.
        spacing: `(3,)`, mm along its axes; not looked at where the preprocessing has none.
        preprocessing: its settings.

    Returns:
        float32 `(*size, channels)`, and what `invert_volume` needs: sizes of the resampled grid and
        first voxel of the window in it, int32 `(3,)` each.

    Example:
        >>> settings = Preprocessing((8, 8, 8), normalise="zscore", axes="XYZ", fit="crop")
        >>> x, (grid, start) = preprocess_volume(np.zeros((9, 6, 8, 3)), None, settings)
        >>> x.shape, start.numpy().tolist()
        (TensorShape([8, 8, 8, 3]), [0, -1, 0])
    """
    x = tf.transpose(tf.cast(volume, "float32"), (*preprocessing.order, 3))
    if preprocessing.nan_background:
        x = tf.where(tf.math.is_nan(x), 0.0, x)
    grid, start = place = _placement(x, spacing, preprocessing)
    darkest = 0.0
    if preprocessing.normalise == "zscore":
        x = _zscore(_resize_volume(x - tf.reduce_min(x), grid))
        darkest = tf.reduce_min(x)
    elif preprocessing.normalise == "zscore_foreground":
        inside = tf.cast(x, "bool")
        for axis in range(3):
            inside = tf.gather(inside, _nearest(tf.shape(x)[axis], grid[axis]), axis=axis)
        channels = zip(
            tf.unstack(_resize_volume(x, grid), axis=-1), tf.unstack(inside, axis=-1), strict=True
        )
        x = tf.stack([_zscore(*channel) for channel in channels], axis=-1)
    else:
        low, high = tf.reduce_min(x), tf.reduce_max(x)
        x = _resize_volume((x - low) * tf.math.divide_no_nan(255.0, high - low), grid)
        x = tf.floor(tf.clip_by_value(x, 0.0, 255.0) + ROUNDING)
    x = _paste(x, -start, preprocessing.size, darkest)
    x = tf.ensure_shape(x, (*preprocessing.size, volume.shape[-1]))  # windows are planned by it
    return preprocessing.normalised(x), place


def invert_volume(probabilities, place, shape, preprocessing: Preprocessing, background):
    """Probabilities back in a volume's own grid; see `Preprocessing.invert`.

    Args:
        probabilities: `(*size, channels)`.
        place: as `preprocess_volume` gives it.
        shape: of the volume, int32 `(3,)`.
        preprocessing: its settings.
        background: probability of each channel outside of the network's input.

    Returns:
        float32 `(*shape, channels)`.
    """
    grid, start = place
    whole = _paste(probabilities, start, grid, background)
    whole = _resize_volume(whole, tf.gather(shape, preprocessing.order))
    return tf.transpose(whole, (*np.argsort(preprocessing.order), 3))


def _placement(x, spacing, preprocessing):
    """`Preprocessing.placement` of a volume in the network's order of axes."""
    size = tf.constant(preprocessing.size)
    shape = grid = tf.shape(x)[:3]
    if preprocessing.fit == "resize":
        return size, tf.zeros_like(size)
    if preprocessing.spacing:
        before = tf.cast(tf.gather(spacing, preprocessing.order), "float64")
        grid = tf.cast(shape, "float64") * before / np.array(preprocessing.spacing)
        grid = tf.maximum(1, tf.cast(tf.floor(grid + 0.5 + TIE), "int32"))
    middle = tf.cast(grid, "float64") / 2
    if preprocessing.fit == "crop_foreground":
        inside = tf.reduce_any(tf.cast(x, "bool"), axis=-1)
        middle = tf.where((grid > size) & tf.reduce_any(inside), _centre(inside, grid), middle)
    start = tf.cast(tf.floor(middle - tf.cast(size, "float64") / 2 + TIE), "int32")
    inner = tf.clip_by_value(start, 0, tf.maximum(0, grid - size))
    return grid, tf.where(grid > size, inner, start)


def _centre(inside, grid):
    """`spatial.foreground_centre`, on a grid of another size."""
    centres = []
    for axis in range(3):
        shown = tf.reduce_any(inside, axis=[a for a in range(3) if a != axis])
        place = tf.concat([tf.where(shown)[:, 0], [0]], axis=0)  # never empty
        ends = tf.reduce_min(place[:-1]) + tf.reduce_max(place) + 1
        centre = tf.cast(ends, "float64") / 2 * tf.cast(grid[axis], "float64")
        centres.append(centre / tf.cast(tf.shape(inside)[axis], "float64"))
    return tf.stack(centres)


def _zscore(x, inside=True, axes=None):
    """`intensity.zscore` along some axes, or all; 0 outside."""
    inside = tf.broadcast_to(inside, tf.shape(x))
    weight = tf.cast(inside, "float32")

    def total(values):
        return tf.reduce_sum(tf.cast(values, "float64"), axes, keepdims=axes is not None)

    count = tf.maximum(total(inside), 1.0)
    mean = tf.cast(total(x * weight) / count, "float32")
    deviation = (x - mean) * weight
    variance = total(tf.square(deviation)) / count
    return tf.math.divide_no_nan(deviation, tf.cast(tf.sqrt(variance), "float32"))


def _resize_volume(x, size):
    """`spatial.resize` of `(D, H, W, channels)`, its size known only when the graph runs."""
    for axis in range(3):
        x = tf.cond(
            tf.equal(tf.shape(x)[axis], size[axis]),
            lambda x=x: x,
            lambda x=x, axis=axis: _resize_axis(x, axis, size[axis]),
        )
    return x


def _resize_axis(x, axis, size):
    before, after = tf.cast(tf.shape(x)[axis], "float64"), tf.cast(size, "float64")
    source = (tf.range(after) + 0.5) * (before / after) - 0.5
    width = tf.maximum(tf.constant(1.0, "float64"), before / after)
    weights = tf.maximum(
        tf.constant(0.0, "float64"), 1 - tf.abs(tf.range(before) - source[:, None]) / width
    )
    matrix = tf.cast(weights / tf.reduce_sum(weights, axis=1, keepdims=True), "float32")
    moved = tf.tensordot(matrix, x, axes=[[1], [axis]])
    order = [1, 2, 3]
    order.insert(axis, 0)
    return tf.transpose(moved, order)


def _nearest(before, after):
    """The pixels that nearest interpolation takes along an axis."""
    step = tf.cast(before, "float64") / tf.cast(after, "float64")
    return tf.cast((tf.range(tf.cast(after, "float64")) + 0.5) * step, "int32")


def _paste(part, start, size, fill):
    """`spatial.paste` of `(D, H, W, channels)`."""
    first = tf.clip_by_value(start, 0, size)
    last = tf.maximum(tf.clip_by_value(start + tf.shape(part)[:3], 0, size), first)
    seen = tf.slice(part, tf.concat([first - start, [0]], 0), tf.concat([last - first, [-1]], 0))
    margin = tf.concat([tf.stack([first, size - last], axis=1), [[0, 0]]], axis=0)
    return tf.pad(seen - fill, margin) + fill
