"""Segmentation metrics of one case and one class: overlap, surface distances, volumes.

HD95 has no single definition: the same pair of masks scores 7.00 by MedPy (95th percentile of the
pooled distances), 7.07 by MONAI (larger of two directed percentiles) and 6.71 by DeepMind (surface
elements weighted by their area). Here it is MedPy's, and so is ASSD (MedPy 0.5.2, which averages
the pooled distances; MedPy 0.5.0 and before averaged the two directed means instead).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from keras_meduda.data._cv2 import cv2


def case_metrics(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: Sequence[float],
    method: str = "scipy",
) -> dict[str, float]:
    """Compare a predicted mask with its reference.

    `dice = 2|P∩R| / (|P|+|R|)` and `iou = |P∩R| / |P∪R|`, both 1 where both masks are empty. For
    `hd95` and `assd` see `surface_metrics`.

    Args:
        prediction: Boolean or 0/1 array of any rank, `(rows, columns)` or `(x, y, z)`.
        reference: Boolean or 0/1 array of the same shape.
        spacing: Distance between voxel centres along each axis, in mm (1 each to count pixels).
        method: `"scipy"` (default) or `"medpy"`, see `surface_metrics`.

    Returns:
        `dice`, `iou`, `hd95` and `assd` (unit of `spacing`), `volume_prediction` and
        `volume_reference` (foreground voxels × product of `spacing`: mm³, or an area in px²).

    Raises:
        ValueError: For shapes that differ, a spacing of another length or not positive, values
            other than 0 and 1, or an unknown method.

    Example:
        >>> import numpy as np
        >>> reference = np.zeros((8, 8), bool)
        >>> reference[2:6, 2:6] = True
        >>> case_metrics(reference, reference, spacing=(1, 1))["dice"]
        1.0
    """
    prediction, reference = _as_masks(prediction, reference)
    spacing = _as_spacing(spacing, prediction.ndim)
    diagonal = float(np.linalg.norm(prediction.shape * spacing))
    prediction, reference = _in_their_box(prediction, reference)
    hd95, assd = _surface_metrics(prediction, reference, spacing, diagonal, method)
    voxels_prediction = int(np.count_nonzero(prediction))
    voxels_reference = int(np.count_nonzero(reference))
    total = voxels_prediction + voxels_reference
    intersection = int(np.count_nonzero(prediction & reference))
    voxel_volume = float(np.prod(spacing))
    return {
        "dice": 2 * intersection / total if total else 1.0,
        "iou": intersection / (total - intersection) if total else 1.0,
        "hd95": hd95,
        "assd": assd,
        "volume_prediction": voxels_prediction * voxel_volume,
        "volume_reference": voxels_reference * voxel_volume,
    }


def surface_metrics(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: Sequence[float],
    method: str = "scipy",
) -> tuple[float, float]:
    """Return HD95 and ASSD of two masks by MedPy's definition, from one set of distances.

    The surface of a mask is every foreground voxel with a face on the background or on the image's
    edge. `D` pools the distance of each surface voxel of one mask to the nearest surface voxel of
    the other, in both directions: `hd95 = percentile(D, 95)`, `assd = mean(D)`. Two empty masks
    are at distance 0; a single empty one is as far away as the image allows, its diagonal
    `sqrt(Σ (n_i s_i)²)`, so that missing a structure can never improve a mean.

    Args:
        prediction: Boolean or 0/1 array of any rank.
        reference: Boolean or 0/1 array of the same shape.
        spacing: Distance between voxel centres along each axis, in mm (1 each to count pixels).
        method: `"scipy"` (default) looks surface voxels up in a KD-tree; `"medpy"` runs MedPy
            itself, which must be installed, on the bounding box of both masks. They agree to
            1e-6 and the second is 2 to 30 times slower: it is there to confirm a figure.

    Returns:
        `(hd95, assd)` in the unit of `spacing`.

    Raises:
        ValueError: As `case_metrics`.

    Example:
        >>> import numpy as np
        >>> a, b = np.zeros((2, 8, 8), bool)
        >>> a[2, 2] = b[2, 5] = True
        >>> surface_metrics(a, b, spacing=(1.0, 0.5))
        (1.5, 1.5)

    Source:
        `hd95` and `assd` of MedPy 0.5.2, `connectivity=1`.
    """
    prediction, reference = _as_masks(prediction, reference)
    spacing = _as_spacing(spacing, prediction.ndim)
    diagonal = float(np.linalg.norm(prediction.shape * spacing))
    return _surface_metrics(*_in_their_box(prediction, reference), spacing, diagonal, method)


def vertical_cup_to_disc_ratio(cup: ArrayLike, disc: ArrayLike) -> float:
    """Return the vertical extent of the optic cup as a fraction of the optic disc's.

    `vcdr = height(cup) / height(disc)`, a height being last row − first row + 1.

    Args:
        cup: Boolean or 0/1 array, `(rows, columns)`.
        disc: Boolean or 0/1 array of the same shape; it includes the cup.

    Returns:
        The ratio, NaN where either mask is empty.

    Raises:
        ValueError: For masks that are not two-dimensional, shapes that differ, or values other
            than 0 and 1.

    Example:
        >>> import numpy as np
        >>> cup, disc = np.zeros((2, 8, 8), bool)
        >>> cup[3:5, 4] = disc[2:6, 3:6] = True
        >>> vertical_cup_to_disc_ratio(cup, disc)
        0.5
    """
    cup, disc = _as_masks(cup, disc, names=("cup", "disc"))
    if cup.ndim != 2:
        raise ValueError(f"Received masks of shape {cup.shape}, expected (rows, columns).")
    if not cup.any() or not disc.any():
        return float("nan")
    rows_cup, rows_disc = _bounding_box(cup)[0], _bounding_box(disc)[0]
    return float((rows_cup.stop - rows_cup.start) / (rows_disc.stop - rows_disc.start))


def totals(pairs: Iterable[tuple[ArrayLike, ArrayLike]], classes: Sequence[str]) -> dict:
    """Return Dice and IoU of a whole data set: pixels are counted over all images together.

    `dice_c = 2 Σ|P_c∩R_c| / Σ(|P_c|+|R_c|)`, `iou_c = Σ|P_c∩R_c| / Σ|P_c∪R_c|`, the sums over
    images; `mdice` and `miou` average over the classes **and the background**, so that with one
    small class half of them is a number close to 1. Large structures outweigh small ones, and no
    image has a value of its own: for these, and for intervals, see `case_metrics`.

    Args:
        pairs: Predicted and reference labels of every image, integer arrays of equal shape; 0 is
            background, i the i-th class. Classes exclude each other.
        classes: Names of the classes, background left out.

    Returns:
        `{"mdice", "miou", "dice": {"background", …}, "iou": {…}}`; a class that neither masks
        nor predictions hold is NaN and left out of the means.

    Raises:
        ValueError: For shapes that differ, labels beyond the classes, or no images.

    Source:
        `IoUMetric` of MMSegmentation, whose mIoU and mDice these are.

    Example:
        >>> reference = np.array([[0, 0, 0, 1]])
        >>> pairs = [(reference, reference), (0 * reference, reference)]
        >>> round(totals(pairs, ["fluid"])["miou"], 4)
        0.6786
    """
    names = ("background", *classes)
    confusion = np.zeros((len(names), len(names)), np.int64)
    for prediction, reference in pairs:
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        if prediction.shape != reference.shape:
            raise ValueError(
                f"Received a prediction of shape {prediction.shape} and a reference of shape "
                f"{reference.shape}, expected equal shapes."
            )
        largest = max(prediction.max(), reference.max())
        if largest >= len(names):
            raise ValueError(f"Received label {largest}, expected at most {len(classes)}.")
        codes = prediction.astype(np.int64) * len(names) + reference
        confusion += np.bincount(codes.ravel(), minlength=confusion.size).reshape(confusion.shape)
    if not confusion.any():
        raise ValueError("Received no images, expected at least one.")
    both, counted = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        dice, iou = 2 * both / counted, both / (counted - both)
    return {
        "mdice": float(np.nanmean(dice)),
        "miou": float(np.nanmean(iou)),
        "dice": dict(zip(names, dice.tolist(), strict=True)),
        "iou": dict(zip(names, iou.tolist(), strict=True)),
    }


def _surface_metrics(prediction, reference, spacing, diagonal, method):
    """`surface_metrics` of masks that are cut to their box; `diagonal` is that of the image."""
    if method not in ("scipy", "medpy"):
        raise ValueError(f'Received method {method!r}, expected "scipy" or "medpy".')
    empty = int(not prediction.any()) + int(not reference.any())
    if empty:
        return (diagonal, diagonal) if empty == 1 else (0.0, 0.0)
    if method == "medpy":
        from medpy.metric import binary  # GPL: imported only where it is asked for

        return (
            float(binary.hd95(prediction, reference, voxelspacing=spacing)),
            float(binary.assd(prediction, reference, voxelspacing=spacing)),
        )
    surfaces = _surface_voxels(prediction), _surface_voxels(reference)
    distances = np.concatenate(
        [
            _nearest_distances(surfaces[0], surfaces[1], spacing, prediction.shape),
            _nearest_distances(surfaces[1], surfaces[0], spacing, prediction.shape),
        ]
    )
    return float(np.percentile(distances, 95)), float(distances.mean())


def _in_their_box(prediction, reference):
    """Both masks cut to the box around them.

    Outside of an image MedPy sees background, so cutting background away moves no surface.
    """
    both = prediction | reference
    if not both.any():
        return prediction, reference
    box = _bounding_box(both)
    return np.ascontiguousarray(prediction[box]), np.ascontiguousarray(reference[box])


def _as_masks(first, second, names=("prediction", "reference")):
    first, second = _as_mask(first, names[0]), _as_mask(second, names[1])
    if first.shape != second.shape:
        raise ValueError(
            f"Received a {names[0]} of shape {first.shape} and a {names[1]} of shape "
            f"{second.shape}, expected equal shapes."
        )
    return first, second


def _as_mask(values, name):
    values = np.asarray(values)
    mask = values.astype(bool, copy=False)
    if not mask.size:
        raise ValueError(f"Received a {name} of shape {values.shape}, expected at least one voxel.")
    if values.dtype != bool and not np.array_equal(mask, values):
        raise ValueError(
            f"Received a {name} with values from {values.min()} to {values.max()} "
            f"({values.dtype}), expected only 0 and 1: threshold it, or pick one class, first."
        )
    return mask


def _as_spacing(spacing, rank):
    array = np.asarray(spacing, dtype=np.float64)
    if array.shape != (rank,) or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(f"Received spacing {spacing!r}, expected {rank} positive numbers.")
    return array


def _bounding_box(mask):
    if mask.ndim == 2:
        x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view("uint8"))
        return slice(y, y + height), slice(x, x + width)
    box = ()
    for axis in range(mask.ndim):  # every axis looks only at what the axes before it have left
        others = tuple(i for i in range(mask.ndim) if i != axis)
        occupied = np.flatnonzero(mask[box].any(axis=others))
        box += (slice(occupied[0], occupied[-1] + 1),)
    return box


def _surface_voxels(mask):
    """Indices `(n, rank)` of `mask & ~binary_erosion(mask)`, found in the mask's own box."""
    box = _bounding_box(mask)
    mask = np.ascontiguousarray(mask[box])
    interior = mask.copy()
    for axis in range(mask.ndim):
        outer, inner = np.moveaxis(mask, axis, 0), np.moveaxis(interior, axis, 0)
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
        inner[0] = inner[-1] = False
    flat = np.flatnonzero(mask ^ interior)  # far faster than nonzero on more than one axis
    places = np.empty((len(flat), mask.ndim), "int32")  # ragged masks have millions of them
    for axis in reversed(range(mask.ndim)):
        places[:, axis] = flat % mask.shape[axis] + box[axis].start
        flat //= mask.shape[axis]
    return places


def _nearest_distances(points, targets, spacing, shape):
    """Distance of each point `(n, rank)` to the nearest target; both are indices into `shape`."""
    # A tree costs per surface voxel, a distance transform per voxel of the box. Only ragged masks,
    # such as an untrained network predicts, have so much surface that the transform is the cheaper.
    surface, box = len(points) + len(targets), np.prod(shape)
    if len(shape) == 2 and spacing[0] == spacing[1] and surface > box / 25 and max(shape) < 1448:
        background = np.ones(shape, "uint8")
        background[tuple(targets.T)] = 0
        found = cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The squares are whole numbers, up to 2²² told apart in float32.
        squares = np.rint(np.square(found[tuple(points.T)], dtype="float64"))
        return np.sqrt(squares) * spacing[0]
    if surface > box / 10:
        background = np.ones(shape, dtype=bool)
        background[tuple(targets.T)] = False
        nearest = distance_transform_edt(  # of every voxel; the distances of all take twice as much
            background, sampling=spacing, return_distances=False, return_indices=True
        )
        parts = np.array_split(points, 1 + len(points) // 2**18)  # one after the other, for memory
        offsets = ((nearest[:, *some.T] - some.T) * spacing[:, None] for some in parts)
        return np.concatenate([np.sqrt(np.square(o, out=o).sum(axis=0)) for o in offsets])
    tree = cKDTree(targets * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
    return tree.query(points * spacing)[0]
