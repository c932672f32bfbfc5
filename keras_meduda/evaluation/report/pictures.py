"""Pictures of a case: outlines, coloured masks, entropy; a volume is shown as a strip of slices."""

import base64
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import colormaps

from keras_meduda.data._cv2 import cv2

# Okabe & Ito's colours, told apart with any colour vision; white is left to the reference. RGB.
COLOURS = (
    (240, 228, 66),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (230, 159, 0),
    (213, 94, 0),
    (0, 114, 178),
)
WHITE = (255, 255, 255)
PICTURE_SIDE, SLICE_SIDE, SMALL_SIDE = 480, 256, 240  # px of the longer side, as shown
MOST_SLICES = 24
DOUBT = colormaps["inferno"]


def outline(image, masks, thickness: int = 2) -> np.ndarray:
    """An RGB picture with the outline of each class drawn on it.

    Args:
        image: `(H, W, C)`, 8-bit or any range.
        masks: boolean `(H, W, classes)`.
        thickness: of the line, in pixels.
    """
    picture = np.array(as_rgb(image), order="C")
    for i in range(masks.shape[-1]):
        _draw(picture, masks[..., i], COLOURS[i % len(COLOURS)], thickness)
    return picture


def as_rgb(image) -> np.ndarray:
    """8-bit RGB of an image `(*spatial, channels)`: its first channel in grey, if not in colour.

    Other depths are shown between the 0.5th and the 99.5th percentile of all that is not 0.
    """
    if image.dtype == np.uint8 and image.shape[-1] >= 3:
        return image[..., :3]
    grey = image[..., :1]
    if grey.dtype.kind == "f":
        grey = np.nan_to_num(grey)  # where NaN is the background
    if grey.dtype != np.uint8:
        inside = grey[grey != 0] if grey.any() else grey
        low, high = np.percentile(inside, [0.5, 99.5])
        grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1) * (grey != 0)
        grey = np.rint(255 * grey).astype("uint8")
    return np.repeat(grey, 3, axis=-1)


@dataclass(frozen=True)
class Strip:
    """How a case becomes a row of tiles: a picture is one tile, a volume some of its slices.

    Args:
        axis: that the slices lie along; `None` for a picture.
        indices: of the slices shown.
        count: of the slices there are.
        tile: height and width of a tile, in px.
    """

    axis: int | None
    indices: tuple[int, ...]
    count: int
    tile: tuple[int, int]

    @classmethod
    def of(cls, foreground, spacing):
        """The strip that shows where a boolean array `(*spatial)` is foreground, and a little more.

        Volumes are cut across the axis of the widest spacing, the one across which they were
        acquired; upwards where all are equal.
        """
        if foreground.ndim == 2:
            return cls(None, (0,), 1, _fit(foreground.shape, spacing, PICTURE_SIDE))
        axis = max(range(3), key=lambda a: (round(spacing[a], 3), a))
        others = [a for a in range(3) if a != axis]
        count = foreground.shape[axis]
        found = np.flatnonzero(foreground.any(axis=tuple(others)))
        first, last = (found[0] - 2, found[-1] + 2) if len(found) else (0, count - 1)
        first, last = max(first, 0), min(last, count - 1)
        indices = np.unique(
            np.linspace(first, last, min(MOST_SLICES, last - first + 1)).round().astype(int)
        )
        plane = [foreground.shape[a] for a in others], [spacing[a] for a in others]
        height, width = _fit(plane[0][::-1], plane[1][::-1], SLICE_SIDE)
        return cls(axis, tuple(indices.tolist()), count, (height, width))

    @property
    def labels(self) -> list[str]:
        """What each tile shows, in words."""
        return [f"slice {i + 1} of {self.count}" for i in self.indices]

    @property
    def middle(self) -> int:
        """The tile to begin with."""
        return len(self.indices) // 2

    def tiles(self, array, smooth: bool) -> list[np.ndarray]:
        """The tiles of `(*spatial, channels)`, interpolated if `smooth`, else nearest.

        Slices are seen as radiologists see them: the patient's right, or front, is on the left.
        """
        if self.axis is None:
            planes = [array]
        else:
            slices = (np.take(array, i, self.axis) for i in self.indices)
            planes = [plane.transpose(1, 0, 2)[::-1, ::-1] for plane in slices]
        height, width = self.tile
        how = cv2.INTER_NEAREST
        if smooth:
            how = cv2.INTER_AREA if planes[0].shape[0] > height else cv2.INTER_LINEAR
        shape = (height, width, array.shape[-1])
        return [
            cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=how).reshape(shape)
            for p in planes
        ]


def background(image, strip) -> str:
    """The image itself as a data address, JPEG."""
    return _address(strip.tiles(as_rgb(image), smooth=True), ".jpg")


def coloured(masks, strip) -> str:
    """Every class filled and outlined in its colour, the smaller above the larger; transparent PNG.

    Args:
        masks: boolean `(*spatial, classes)`.
        strip: of the case.
    """
    return _address(_filled(masks, strip), ".png")


def outlined(masks, strip) -> str:
    """The outline of every class in white; transparent PNG."""
    return _address(_outlines(masks, strip), ".png")


def thumbnail(image, masks, reference, spacing) -> str:
    """A case as one small picture: masks filled, the reference outlined; JPEG.

    Of a volume the slice is shown in which most is wrong, or most is found without a reference.

    Args:
        image: `(*spatial, channels)`.
        masks: boolean `(*spatial, classes)`.
        reference: the same, or `None`.
        spacing: of the image.
    """
    wrong = (masks if reference is None else masks != reference).any(axis=-1)
    strip = Strip.of(wrong, spacing)
    if strip.axis is not None:
        areas = [np.count_nonzero(wrong.take(i, strip.axis)) for i in strip.indices]
        strip = replace(strip, indices=(strip.indices[int(np.argmax(areas))],))
    scale = min(1, SMALL_SIDE / max(strip.tile))
    strip = replace(strip, tile=tuple(max(1, round(scale * n)) for n in strip.tile))
    (picture,) = strip.tiles(as_rgb(image), smooth=True)
    layers = [*_filled(masks, strip), *([] if reference is None else _outlines(reference, strip))]
    for layer in layers:
        share = layer[..., 3:] / 255
        picture = picture * (1 - share) + layer[..., :3] * share
    return _address([np.rint(picture).astype("uint8")], ".jpg")


def doubtful(entropy, most: float, strip) -> str:
    """Entropy as colour, transparent where there is little of it; PNG.

    Args:
        entropy: `(*spatial)`, in nats.
        most: the entropy at the bright end of the scale.
        strip: of the case.
    """
    tiles = []
    for share in strip.tiles((entropy / most).astype("float32")[..., None], smooth=True):
        share = np.clip(share[..., 0], 0, 1)
        tile = (255 * DOUBT(share)).astype("uint8")
        tile[..., 3] = 255 * np.minimum(1, 4 * share)
        tiles.append(tile)
    return _address(tiles, ".png")


def doubt_scale() -> str:
    """The colours of `doubtful` from none to most, as a gradient of CSS."""
    stops = (tuple(int(255 * v) for v in DOUBT(x)[:3]) for x in np.linspace(0, 1, 9))
    return f"linear-gradient(to right, {', '.join('rgb({} {} {})'.format(*s) for s in stops)})"


def _filled(masks, strip):
    tiles = []
    for found in strip.tiles(masks.astype("uint8"), smooth=False):
        tile = np.zeros((*strip.tile, 4), "uint8")
        for i in np.argsort(-found.sum(axis=(0, 1), dtype=int), kind="stable"):
            colour = COLOURS[i % len(COLOURS)]
            tile[found[..., i] > 0] = (*colour, 100)
            _draw(tile, found[..., i], (*colour, 255), 2)
        tiles.append(tile)
    return tiles


def _outlines(masks, strip):
    tiles = []
    for found in strip.tiles(masks.astype("uint8"), smooth=False):
        tile = np.zeros((*strip.tile, 4), "uint8")
        for i in range(found.shape[-1]):
            _draw(tile, found[..., i], (0, 0, 0, 160), 3)
            _draw(tile, found[..., i], (*WHITE, 255), 1)
        tiles.append(tile)
    return tiles


def _fit(shape, spacing, side):
    """Height and width in px of a plane of pixels that need not be square."""
    extent = np.array(shape) * np.array(spacing)
    return tuple(int(n) for n in np.maximum(1, np.rint(side * extent / extent.max())))


def _draw(picture, mask, colour, thickness):
    found = np.ascontiguousarray(mask, "uint8")
    lines, _ = cv2.findContours(found, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, colour, thickness)


def _address(tiles, suffix):
    strip = np.concatenate(tiles, axis=1)
    order = [2, 1, 0, 3][: strip.shape[-1]]  # OpenCV's is blue, green, red
    kind, settings = {
        ".jpg": ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 88]),
        ".png": ("png", [cv2.IMWRITE_PNG_COMPRESSION, 9]),
    }[suffix]
    data = cv2.imencode(suffix, strip[..., order], settings)[1]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
