"""How an image becomes a network's input, and what the network gives an image again."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from keras_meduda.data.channels import to_8bit, to_channels
from keras_meduda.data.intensity import clahe, zscore
from keras_meduda.data.spatial import (
    Placement,
    crop_or_pad,
    foreground_centre,
    paste,
    resampled_size,
    resize,
    window_start,
)

IMAGENET = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]], "float32")  # mean, std
EIGHT_BIT, ZSCORES = ("minus1_1", "zero_one", "imagenet"), ("zscore", "zscore_foreground")
INTENSITY = {"clahe": clahe}  # the steps that run on 8-bit images, by the name in the configuration

# Added before rounding down. Ratios of small whole numbers put many resized pixels on ½ exactly,
# where the last bit of a sum, in numpy or in an exported graph, would decide: all of them go up.
# Not a simple fraction itself, or other pixels would lie on the threshold.
ROUNDING = 0.507


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input; part of every run and inverted on the way out.

    In this order: channels, order of axes, resampling (linear, antialiased; nearest for labels),
    the `intensity` steps, z-scores, crop and padding, the range of `normalise`.

    Args:
        size: spatial size of the network's input, in pixels or voxels, in the order of `axes`.
        intensity: names of steps on 8-bit pictures; `"clahe"` is known. Default none. Not together
            with z-scores.
        normalise: `"minus1_1"` (x/127.5 − 1), `"zero_one"` (x/255) or `"imagenet"` (mean and
            standard deviation of ImageNet's channels) for 8-bit images; `"zscore"` (population mean
            and standard deviation of the image) or `"zscore_foreground"` (those of each channel's
            voxels that are not 0; the others stay 0), taken before the crop. Default `"minus1_1"`.
        channels: image channels; a grey image is repeated, alpha is dropped. Default 3.
        axes: the network's order of the spatial axes. `"YX"` for pictures, the default. For volumes
            any order of X (to the right), Y (to the front) and Z (upwards), those of `read_image`:
            `"XYZ"` is what MONAI's networks take. RatLesNetV2 wants slices first and the axes of a
            slice in their order in the file: `"YXZ"` where slices are coronal and the header says
            so, `"ZXY"` where it calls the axis across the slices Z, as many of rodents do.
        spacing: distance of voxels in mm, in the order of `axes`, to which volumes are resampled.
            Default `None`: the file's own.
        fit: how an image comes to `size`. `"resize"`; `"crop"` cuts its middle out, or pads it with
            its darkest value (0 where that is the background); `"crop_foreground"` likewise, but
            around the box of all that is not 0 (a content-adaptive crop). Default `"resize"`.
        nan_background: whether NaN is taken for 0, as the background of resampled or skull-stripped
            volumes is written by some programs. Default `False`: NaN is refused.

    Raises:
        ValueError: a setting that is not one of these.

    Example:
        >>> preprocessing = Preprocessing(size=(64, 64))
        >>> preprocessing.stored(np.zeros((100, 80, 3), "uint8")).shape
        (64, 64, 3)
        >>> preprocessing = Preprocessing((144, 176, 160), normalise="zscore_foreground",
        ...                               channels=1, axes="XYZ", fit="crop")
        >>> preprocessing.placement(np.zeros((240, 240, 155, 1), "float32")).start
        (48, 32, -3)
    """

    size: tuple[int, ...] = (192, 192)
    intensity: tuple[str, ...] = ()
    normalise: str = "minus1_1"
    channels: int = 3
    axes: str = "YX"
    spacing: tuple[float, ...] | None = None
    fit: str = "resize"
    nan_background: bool = False

    def __post_init__(self):
        size = tuple(self.size) if np.iterable(self.size) else ()
        if not size or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise ValueError(
                f"Preprocessing: size={self.size!r}; expected a positive whole number "
                "an axis, such as (192, 192)."
            )
        steps = (self.intensity,) if isinstance(self.intensity, str) else tuple(self.intensity)
        object.__setattr__(self, "size", tuple(int(n) for n in size))
        object.__setattr__(self, "intensity", steps)
        if unknown := set(steps) - set(INTENSITY):
            raise ValueError(
                f"Preprocessing: intensity steps {sorted(unknown)} are unknown; "
                f"known: {sorted(INTENSITY)}."
            )
        if self.normalise not in (*EIGHT_BIT, *ZSCORES):
            raise ValueError(
                f"Preprocessing: normalise={self.normalise!r}; known: "
                f"{', '.join(map(repr, (*EIGHT_BIT, *ZSCORES)))}."
            )
        if self.channels < 1 or self.normalise == "imagenet" and self.channels != 3:
            expected = "3 for 'imagenet'" if self.normalise == "imagenet" else "1 or more"
            raise ValueError(f"Preprocessing: channels={self.channels}; expected {expected}.")
        volume = sorted(self.axes) == ["X", "Y", "Z"]
        if not (volume or self.axes == "YX") or len(size) != len(self.axes):
            raise ValueError(
                f"Preprocessing: axes={self.axes!r} with size {size}; expected 'YX' "
                "with two axes, 'XYZ' in any order with three."
            )
        if steps and (self.zscored or volume):
            raise ValueError(
                f"Preprocessing: the steps {steps} need the 8-bit range of pictures; received "
                f"normalise={self.normalise!r} and axes={self.axes!r}."
            )
        fits = ("resize", "crop", "crop_foreground") if volume else ("resize",)
        if self.fit not in fits:
            raise ValueError(
                f"Preprocessing: fit={self.fit!r}; known for axes {self.axes!r}: {', '.join(fits)}."
            )
        if self.spacing is not None:
            object.__setattr__(self, "spacing", _spacing(self.spacing, len(size)))
            if not volume:
                raise ValueError(
                    f"Preprocessing: spacing={self.spacing} with axes={self.axes!r}; pictures are "
                    "not resampled, a spacing is of volumes."
                )
            if self.fit == "resize":
                raise ValueError("Preprocessing: fit='resize' with a spacing; expected fit='crop'.")

    @property
    def zscored(self) -> bool:
        """Whether stored images are float32 z-scores rather than uint8."""
        return self.normalise in ZSCORES

    @property
    def order(self) -> tuple[int, ...]:
        """The case's axis that becomes each of the network's."""
        return tuple(("YX" if len(self.axes) == 2 else "XYZ").index(a) for a in self.axes)

    @property
    def own_spacing(self) -> tuple[float, ...] | None:
        """`spacing` in the order of the case's own axes."""
        return self.spacing and tuple(self.spacing[i] for i in np.argsort(self.order))

    def stored(self, image, spacing=None) -> np.ndarray:
        """The prepared image before `normalise`: uint8 `(*size, channels)`, float32 if z-scored.

        Prepared data hold this form, so that photometric augmentation sees the 8-bit range.

        Args:
            image: `(*spatial, channels)` as `read_image` gives it.
            spacing: its voxels' distances in mm along its own axes. Default: 1 along each.

        Raises:
            ValueError: an image of another rank, or with channels that do not fit.
        """
        image = self.without_nan(np.asarray(image))
        place = self.placement(image, spacing)
        image = to_channels(image, self.channels).transpose(*self.order, -1)
        darkest = 0
        if self.normalise == "zscore":
            # From 0, so that a constant image stays constant: zscore would blow rounding errors up.
            image = image.astype("float32")
            image = zscore(resize(image - image.min(), place.grid))
            darkest = image.min()
        elif self.normalise == "zscore_foreground":
            inside = np.moveaxis(resize(image != 0, place.grid, linear=False), -1, 0)
            channels = np.moveaxis(resize(image, place.grid), -1, 0)
            image = np.stack(list(map(zscore, channels, inside)), axis=-1)
        else:
            resized = np.clip(resize(to_8bit(image), place.grid), 0, 255)
            image = np.floor(resized + ROUNDING).astype("uint8")
            for name in self.intensity:
                image = INTENSITY[name](image)
        return np.ascontiguousarray(crop_or_pad(image, place.start, self.size, darkest))

    def stored_labels(self, labels, image, spacing=None) -> np.ndarray:
        """Labels `(*spatial)` in the place of `stored`: uint8 `(*size)`, nearest, 0 where padded.

        Args:
            labels: uint8, as `read_mask` gives them.
            image: the image they belong to, on whose foreground the crop may depend.
            spacing: as for `stored`.

        Raises:
            ValueError: labels of another shape than the image.
        """
        place = self.placement(image, spacing)
        if np.shape(labels) != place.shape:
            raise ValueError(
                f"labels of shape {np.shape(labels)}; expected {place.shape}, the image's."
            )
        labels = resize(labels.transpose(self.order), place.grid, linear=False)
        return np.ascontiguousarray(crop_or_pad(labels, place.start, self.size))

    def apply(self, image, spacing=None) -> np.ndarray:
        """The network's input, float32 `(*size, channels)`, of an image `(*spatial, channels)`."""
        return self.normalised(self.stored(image, spacing).astype("float32"))

    def normalised(self, x):
        """The last step, from the stored form to the network's range; arrays and tensors alike."""
        if self.normalise == "minus1_1":
            return x / 127.5 - 1.0
        if self.normalise == "imagenet":
            return (x - IMAGENET[0]) / IMAGENET[1]
        return x / 255.0 if self.normalise == "zero_one" else x

    def without_nan(self, image) -> np.ndarray:
        """The image with 0 for NaN, where that is its background (`nan_background`)."""
        if self.nan_background and image.dtype.kind == "f":
            return np.nan_to_num(image, nan=0.0, posinf=np.inf, neginf=-np.inf)
        return image

    def placement(self, image, spacing=None) -> Placement:
        """Where the network's grid lies in an image `(*spatial, channels)`; see `stored`."""
        image, order = self.without_nan(np.asarray(image)), self.order
        if image.ndim != len(self.size) + 1:
            raise ValueError(
                f"image of shape {image.shape}; the preprocessing expects "
                f"{len(self.size)} spatial axes ({self.axes}) and channels last."
            )
        shape = image.shape[:-1]
        if self.fit == "resize":
            return Placement(shape, self.size, (0,) * len(shape))
        turned = grid = tuple(shape[a] for a in order)
        if self.spacing:
            spacing = _spacing((1.0,) * len(shape) if spacing is None else spacing, len(shape))
            grid = resampled_size(turned, [spacing[a] for a in order], self.spacing)
        centre = None
        if self.fit == "crop_foreground":
            centre = foreground_centre((image != 0).any(axis=-1).transpose(order))
        if centre:
            centre = [c * m / n for c, m, n in zip(centre, grid, turned, strict=True)]
        return Placement(shape, grid, window_start(grid, self.size, centre))

    def invert(self, probabilities, placement, background=0.0) -> np.ndarray:
        """Probabilities back in a case's own grid: `(*size, channels)` to `(*shape, channels)`.

        Args:
            probabilities: of the network's input.
            placement: of the image it was made of.
            background: probability of each channel outside of the network's input:
                `task.one_hot(0)`. Default 0 in all.
        """
        back = np.argsort(self.order)  # first of all, so that nothing large is turned
        start, grid = (
            [place[axis] for axis in back] for place in (placement.start, placement.grid)
        )
        probabilities = np.asarray(probabilities, "float32").transpose(*back, -1)
        whole = paste(probabilities, start, grid, background)
        # As a volume of one slice, which is resized by sparse products: a fifth of the time that a
        # picture's dense ones take, and another last bit, which training alone must keep.
        return resize(whole[None], (1, *placement.shape))[0]


def _spacing(spacing, rank):
    """Distances of voxels as positive floats, one an axis."""
    found = tuple(spacing) if np.iterable(spacing) else (spacing,)
    if len(found) != rank or not all(s > 0 and np.isfinite(s) for s in found):
        raise ValueError(
            f"Preprocessing: spacing={spacing!r}; expected {rank} positive distances in mm."
        )
    return tuple(float(s) for s in found)
