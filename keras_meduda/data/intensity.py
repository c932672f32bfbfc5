"""Grey values: contrast equalisation, histogram matching, standardisation."""

import numpy as np
import skimage  # whose modules load when they are used

from keras_meduda.data._cv2 import cv2

# RGB <-> YCrCb (BT.601) as OpenCV computes it on bytes: integers, 14 bits after the point.
# In float32 all sums stay below 2**24 and 2**-14 is a power of two, so nothing is lost.
_POINT = 2.0**-14


def clahe(image, clip_limit=2.0, grid=8):
    """Contrast limited adaptive histogram equalisation (CLAHE) of an 8-bit image.

    A colour image is equalised in its luminance alone, the Y of YCrCb.

    Args:
        image: uint8 array, `(H, W, 3)` RGB or `(H, W)`, `(H, W, 1)` grey.
        clip_limit: height at which a tile's histogram is cut, in multiples of its mean.
            Default 2.0.
        grid: number of tiles along each axis. Default 8.

    Returns:
        A uint8 array of the image's shape.

    Raises:
        ValueError: if the image is neither uint8 nor of one of these shapes.

    Source:
        K. Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994,
        in OpenCV's implementation.

    Example:
        >>> image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
        >>> clahe(image).shape
        (64, 64, 3)
    """
    image = np.asarray(image)
    channels = image.shape[2:]
    if image.dtype != np.uint8 or image.ndim < 2 or channels not in ((), (1,), (3,)):
        raise ValueError(
            "clahe needs a uint8 image of shape (H, W), (H, W, 1) or (H, W, 3), "
            f"received {image.dtype} of shape {image.shape}."
        )
    equaliser = cv2.createCLAHE(clip_limit, (grid, grid))
    if channels != (3,):
        return equaliser.apply(image).reshape(image.shape)
    ycrcb = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    cv2.insertChannel(equaliser.apply(cv2.extractChannel(ycrcb, 0)), ycrcb, 0)
    return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)


def clahe_graph(images, clip_limit=2.0, grid=8):
    """`clahe` of a batch as TensorFlow graph code: the same grey levels, exportable.

    Args:
        images: tensor `(B, H, W, 3)` RGB or `(B, H, W, 1)` grey of whole numbers in 0..255,
            of any dtype; sizes may be dynamic.
        clip_limit: height at which a tile's histogram is cut, in multiples of its mean.
            Default 2.0.
        grid: number of tiles along each axis. Default 8.

    Returns:
        A tensor of the images' shape and dtype.

    Raises:
        ValueError: if the last axis is neither 1 nor 3 long.

    Example:
        >>> images = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(1, 64, 64, 3)
        >>> bool(np.all(clahe_graph(images)[0] == clahe(images[0])))
        True
    """
    # Not at the top: processes that prepare images for teachers must not load TensorFlow.
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "clahe_graph needs images of shape (B, H, W, 1) or (B, H, W, 3), "
            f"received {images.shape}."
        )
    if images.shape[-1] == 1:
        grey = tf.cast(images[..., 0], tf.float32)
    else:
        red, green, blue = tf.unstack(tf.cast(images, tf.float32), axis=-1)
        grey = tf.floor((red * 4899 + green * 9617 + blue * 1868) * _POINT + 0.5)
        # Cr and Cb without their offset of 128.
        red = tf.clip_by_value(tf.floor((red - grey) * 11682 * _POINT + 0.5), -128, 127)
        blue = tf.clip_by_value(tf.floor((blue - grey) * 9241 * _POINT + 0.5), -128, 127)

    # Tiles. Where they do not fit, OpenCV reflects the image at its lower right border,
    # by a full `grid` along an axis that would have fitted.
    batch, height, width = tf.unstack(tf.shape(grey))
    fits = (height % grid == 0) & (width % grid == 0)
    tile_height = height // grid + tf.where(fits, 0, 1)
    tile_width = width // grid + tf.where(fits, 0, 1)

    def reflected(length, size):
        period = tf.maximum(2 * size - 2, 1)
        index = tf.range(length) % period
        return tf.minimum(index, period - index)

    tiles = tf.gather(grey, reflected(grid * tile_height, height), axis=1)
    tiles = tf.gather(tiles, reflected(grid * tile_width, width), axis=2)
    tiles = tf.reshape(tiles, (batch, grid, tile_height, grid, tile_width))
    tiles = tf.reshape(tf.transpose(tiles, (0, 1, 3, 2, 4)), (-1, tile_height * tile_width))

    # Clipped histograms; what is cut off is spread evenly, the rest of it over every n-th bin.
    area = tile_height * tile_width
    counts = tf.math.bincount(tf.cast(tiles, tf.int32), minlength=256, maxlength=256, axis=-1)
    counts = tf.reshape(counts, (-1, 256))
    limit = tf.maximum(tf.cast(clip_limit * tf.cast(area, tf.float64) / 256, tf.int32), 1)
    excess = tf.reduce_sum(tf.maximum(counts - limit, 0), axis=-1, keepdims=True)
    rest = excess % 256
    step = tf.maximum(256 // tf.maximum(rest, 1), 1)
    bins = tf.range(256)
    extra = (bins % step == 0) & (bins // step < rest)
    counts = tf.minimum(counts, limit) + excess // 256 + tf.cast(extra, tf.int32)
    cumulative = tf.cast(tf.cumsum(counts, axis=-1), tf.float32)
    mapping = tf.minimum(tf.round(cumulative * (255.0 / tf.cast(area, tf.float32))), 255.0)

    # Each pixel's value under the mappings of the four tiles around it, and their bilinear mean.
    mapping = tf.reshape(mapping, (batch, grid, grid, 256))
    mapping = tf.concat([mapping[:, :1], mapping, mapping[:, -1:]], axis=1)
    mapping = tf.concat([mapping[:, :, :1], mapping, mapping[:, :, -1:]], axis=2)
    corners = [mapping[:, :-1, :-1], mapping[:, :-1, 1:], mapping[:, 1:, :-1], mapping[:, 1:, 1:]]
    corners = tf.reshape(tf.stack(corners, axis=-1), (-1, 4))

    def position(size, tile_size):
        place = tf.range(size, dtype=tf.float32) * (1.0 / tf.cast(tile_size, tf.float32)) - 0.5
        tile = tf.floor(place)
        return tf.cast(tile, tf.int32) + 1, place - tile

    row, down = position(height, tile_height)
    column, right = position(width, tile_width)
    down = down[:, None]
    table = (tf.range(batch)[:, None, None] * (grid + 1) + row[:, None]) * (grid + 1) + column
    values = tf.gather(corners, table * 256 + tf.cast(grey, tf.int32))
    upper_left, upper_right, lower_left, lower_right = tf.unstack(values, axis=-1)
    upper = upper_left * (1.0 - right) + upper_right * right
    lower = lower_left * (1.0 - right) + lower_right * right
    grey = tf.round(upper * (1.0 - down) + lower * down)

    if images.shape[-1] == 1:
        return tf.cast(grey[..., None], images.dtype)
    rgb = (
        grey + tf.floor(red * 22987 * _POINT + 0.5),
        grey + tf.floor((red * -11698 - blue * 5636) * _POINT + 0.5),
        grey + tf.floor(blue * 29049 * _POINT + 0.5),
    )
    return tf.cast(tf.clip_by_value(tf.stack(rgb, axis=-1), 0, 255), images.dtype)


def match_histogram(image, reference, mask=None, reference_mask=None):
    """An image whose grey values are distributed as a reference's, channel by channel.

    v ↦ F_r⁻¹(F_i(v)), with the cumulative distributions F of image and reference and linear
    interpolation of the inverse.

    Args:
        image: array `(*spatial, channels)`.
        reference: array `(*spatial, channels)` of any spatial size.
        mask: boolean `(*spatial)`, the image's foreground; the background is neither counted nor
            changed. Default: everything is foreground.
        reference_mask: the same of the reference. Default: everything is foreground.

    Returns:
        An array of the image's shape and dtype; whole numbers are rounded.

    Raises:
        ValueError: if the channels differ, a mask does not fit or a foreground is empty.

    Source:
        Exact cumulative mapping of scikit-image, `skimage.exposure.match_histograms`.

    Example:
        >>> image = np.array([[0.0], [1.0], [2.0]])
        >>> match_histogram(image, 10.0 * image).ravel().tolist()
        [0.0, 10.0, 20.0]
    """
    image, reference = np.asarray(image), np.asarray(reference)
    mask = _foreground(image, mask)
    values, wanted = image[mask], reference[_foreground(reference, reference_mask)]
    if values.shape[1] != wanted.shape[1]:
        raise ValueError(
            "match_histogram needs equal channels (the last axis), "
            f"received an image of shape {image.shape} and a reference of shape {reference.shape}."
        )
    if values.dtype.kind != wanted.dtype.kind:  # scikit-image counts unsigned integers in bins
        values, wanted = values.astype("float64"), wanted.astype("float64")
    matching, pairs = skimage.exposure.match_histograms, zip(values.T, wanted.T, strict=True)
    values = np.stack([matching(v, w) for v, w in pairs], axis=-1)
    matched = image.copy()
    matched[mask] = values if image.dtype.kind == "f" else np.rint(values)
    return matched


def in_proportion(reference, labels, wanted):
    """A reference's grey levels as they would be with the class proportions of another image.

    A histogram mixes those of the classes, F = Σ_c π_c F_c. Where π differs between two images,
    `match_histogram` gives pixels of one class the levels of another; to the levels returned here,
    Σ_c π_c(image) F_c(reference), it does not.

    Args:
        reference: array `(*spatial, channels)`.
        labels: the reference's labels `(*spatial)`.
        wanted: labels of the other image, of any shape.

    Returns:
        Array `(pixels, channels)` with as many values as `wanted`: for each class so many as it has
        there, evenly spaced among the sorted levels of that class in the reference, channel by
        channel. A class that the reference lacks takes those of the whole reference.

    Example:
        >>> levels = np.array([[1], [2], [9]])
        >>> in_proportion(levels, np.array([0, 0, 1]), [0, 1, 1]).ravel().tolist()
        [1, 9, 9]
    """
    reference, labels = np.asarray(reference), np.asarray(labels)
    levels = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        own = reference[labels == label]
        own = np.sort(own if len(own) else reference.reshape(-1, reference.shape[-1]), axis=0)
        levels.append(own[np.linspace(0, len(own) - 1, count).astype(int)])
    return np.concatenate(levels)


def _foreground(image, mask):
    mask = np.ones(image.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != image.shape[:-1] or not mask.any():
        raise ValueError(
            f"match_histogram needs a mask of shape {image.shape[:-1]} with some foreground for an "
            f"image of shape {image.shape}, received shape {mask.shape} with {mask.sum()} voxels."
        )
    return mask


def zscore(volume, mask=None):
    """A volume with mean 0 and population standard deviation 1, (v − μ) / σ.

    Args:
        volume: array of any shape and intensity unit.
        mask: boolean array of the volume's shape: μ and σ are those of its voxels, all others
            become 0. Default: all voxels count.

    Returns:
        A float32 array of the volume's shape; zeros where all voxels are equal.

    Example:
        >>> zscore([1.0, 3.0]).tolist()
        [-1.0, 1.0]
    """
    volume = np.asarray(volume)
    standard = np.zeros(volume.shape, "float32")
    values = volume if mask is None else volume[np.asarray(mask, bool)]
    # Not `std() > 0`: rounding gives equal values a deviation of some 1e-17.
    if not values.size or values.min() == values.max():
        return standard
    mean, deviation = values.mean(dtype="float64"), values.std(dtype="float64")
    if mask is not None:
        standard[np.asarray(mask, bool)] = (values.astype("float64") - mean) / deviation
        return standard
    for i, plane in enumerate(volume):  # one after the other, in double precision
        standard[i] = (plane.astype("float64") - mean) / deviation
    return standard
