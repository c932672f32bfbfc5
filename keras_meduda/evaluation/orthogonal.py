"""A volume as one picture: three slices through its largest lesion, and that of the worst error."""

from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.segmentation import find_boundaries

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.io import read_image, read_mask, write_picture
from keras_meduda.data.nifti import slice_axis
from keras_meduda.evaluation.predict import predict
from keras_meduda.evaluation.report.pictures import as_rgb

REFERENCE, PREDICTION = (0, 190, 255), (255, 120, 0)  # blue and orange on grey, RGB
SIDE = 320  # height of a slice as shown, px
PLANES = ("sagittal", "coronal", "axial")  # across X, Y and Z


def orthogonal_slices(image, prediction, reference=None, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Three orthogonal slices through the largest lesion, and the one of the largest error.

    The largest component of the reference, or of the prediction where the reference is empty or
    not there, is cut where its own slice is largest along each axis. The fourth slice, only with
    a reference, is the one of the acquisition plane (`slice_axis`) in which most area is wrong.
    Slices are shown as radiologists look at them, the patient's right and front to the left, each
    in the proportions of `spacing`. The prediction is outlined in orange, the reference in blue.

    Args:
        image: `(X, Y, Z)` or `(X, Y, Z, channels)`, of which the first is shown, axes to the right,
            front and top of the patient as `read_image` gives them.
        prediction: boolean `(X, Y, Z)`.
        reference: the same. Default `None`.
        spacing: distance of the voxels along each axis, mm. Default 1.

    Returns:
        uint8 picture `(height, width, 3)`, RGB.

    Raises:
        ValueError: no volume, or masks of another shape.

    Example:
        >>> image = np.random.default_rng(0).normal(size=(20, 24, 10))
        >>> lesion = np.zeros(image.shape, bool)
        >>> lesion[5:9, 6:12, 4:7] = True
        >>> orthogonal_slices(image, lesion, lesion, (1.0, 1.0, 2.0)).shape[-1]
        3
    """
    image = np.asarray(image)
    image = image[..., 0] if image.ndim == 4 else image
    masks = {"prediction": np.asarray(prediction, bool)}
    if reference is not None:
        masks["reference"] = np.asarray(reference, bool)
    for name, mask in masks.items():
        if image.ndim != 3 or mask.shape != image.shape:
            raise ValueError(
                f"orthogonal_slices: an image of shape {image.shape} and a {name} of shape "
                f"{mask.shape}; expected (X, Y, Z) in both."
            )
    truth = masks.get("reference", masks["prediction"])
    lesion = _largest(truth if truth.any() else masks["prediction"])
    grey = as_rgb(image[..., None])[..., 0]
    tiles = [
        _tile(grey, masks, axis, _fullest(lesion, axis, n), spacing, PLANES[axis])
        for axis, n in enumerate(image.shape)
    ]
    if reference is not None:
        wrong = masks["prediction"] != masks["reference"]
        axis = slice_axis(spacing)
        index = _fullest(wrong, axis, image.shape[axis])
        area = wrong.take(index, axis).sum() * np.prod(spacing) / spacing[axis]
        tiles.append(_tile(grey, masks, axis, index, spacing, f"largest error, {area:,.2f} mm2"))
    gap = np.zeros((tiles[0].shape[0], 6, 3), "uint8")
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def write_orthogonal_slices(folder, run, cases, frame, masks=None) -> list[Path]:
    """Pictures of the best, the median and the worst case of an evaluation; all classes as one.

    Args:
        folder: where to write `best.png`, `median.png` and `worst.png`.
        run: what `km.load` or `km.fit` returns, of volumes.
        cases: the evaluated cases.
        frame: what `km.evaluate` gave; cases are ranked by Dice averaged over classes.
        masks: function from probabilities to masks, if it was not `run.task.masks`.

    Returns:
        The files written.
    """
    ranked = frame.groupby(["domain", "case"])["dice"].mean().sort_values(kind="stable").index
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    files = []
    for name, (domain, case) in chosen.items():
        row = cases[(cases["case"] == case) & (cases["domain"] == domain)].iloc[0]
        image = read_image(row["image"])
        prediction = (masks or run.task.masks)(predict(run, image)).any(axis=-1)
        reference = read_mask(row["mask"], run.task.of(row)) > 0
        picture = orthogonal_slices(image.array, prediction, reference, image.spacing)
        files.append(write_picture(Path(folder) / f"{name}.png", picture))
    return files


def _largest(mask):
    """The largest component of a mask, corners included."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax() if count else mask


def _fullest(mask, axis, count):
    """The slice that holds most of a mask; the middle one of an empty mask."""
    filled = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    return int(filled.argmax()) if filled.any() else count // 2


def _tile(grey, masks, axis, index, spacing, title):
    """One slice with its outlines, under its title."""
    across, up = (a for a in range(3) if a != axis)
    shape = np.array([grey.shape[up] * spacing[up], grey.shape[across] * spacing[across]])
    height, width = SIDE, max(1, round(SIDE * shape[1] / shape[0]))

    def plane(array, how):
        turned = np.ascontiguousarray(array.take(index, axis).T[::-1, ::-1])
        return cv2.resize(turned, (width, height), interpolation=how)

    picture = np.repeat(plane(grey, cv2.INTER_LINEAR)[..., None], 3, axis=-1)
    for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION)):
        if name in masks:
            mask = plane(masks[name].astype("uint8"), cv2.INTER_NEAREST) > 0
            picture[find_boundaries(mask, mode="thick")] = colour
    head = np.zeros((24, width, 3), "uint8")
    text = f"{title}, slice {index + 1}"
    cv2.putText(head, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255,) * 3, 1, cv2.LINE_AA)
    return np.concatenate([head, picture])
