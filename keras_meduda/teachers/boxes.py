"""Boxes that prompt a teacher: from masks, from a table, and as labels of a YOLO detector.

A box is `(x0, y0, x1, y1)` in pixels of the original image, x1 and y1 exclusive; a case may have
several, or none. Tables are frames `case, x0, y0, x1, y1, score`. Of volumes a box is `(x0, y0, z0,
x1, y1, z1)` in voxels, and tables have these columns.
"""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.boxes import CORNERS
from keras_meduda.data.cases import split_together
from keras_meduda.data.checks import read_labelled, read_reference
from keras_meduda.data.files import each
from keras_meduda.data.io import DataError, Problem, read_image, replacing, write_picture
from keras_meduda.progress import track

CORNERS_3D = ["x0", "y0", "z0", "x1", "y1", "z1"]
COLUMNS = ["case", *CORNERS, "score"]
SPECK = 9  # pixels; a smaller piece of a mask gets no box beside a larger one
WRITTEN = "# written by keras_meduda, which replaces this folder\n"


def boxes_of(mask, speck: int = SPECK) -> np.ndarray:
    """The tight box of every 8-connected piece of a mask, largest piece first.

    Pieces below `speck` pixels count only where there is no larger one. MedDistill draws one box
    around the whole mask, which is the same for a single tumour; two tumours would share a box that
    is mostly neither.

    Args:
        mask: `(H, W)` or `(X, Y, Z)`, anything but 0 is foreground.
        speck: in pixels. Default 9.

    Returns:
        `(n, 4)` whole numbers, of a volume `(n, 6)`; n is 0 of an empty mask.

    Example:
        >>> boxes_of(np.eye(5)[:4]).tolist()
        [[0, 0, 4, 4]]
    """
    if np.ndim(mask) == 3:
        return _boxes_of_volume(np.asarray(mask) > 0, speck)
    stats = cv2.connectedComponentsWithStats((np.asarray(mask) > 0).astype("uint8"))[2][1:]
    stats = stats[np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")]
    large = stats[:, cv2.CC_STAT_AREA] >= speck
    stats = stats[large if large.any() else slice(None)]
    start, size = stats[:, :2], stats[:, 2:4]
    return np.concatenate([start, start + size], axis=1)


def boxes_from_masks(cases: pd.DataFrame, task, jitter: int = 0, seed: int = 0) -> pd.DataFrame:
    """The boxes of all cases with a mask: an upper figure for what a detector could give.

    Args:
        cases: a case table; rows without a mask give no box.
        task: declares the values of the mask files; a box goes around any class.
        jitter: every edge is moved by a whole number of pixels drawn from −jitter…jitter and kept
            within the image. Default 0.
        seed: of the draw, which for each case depends on nothing but its name. Default 0.

    Returns:
        A box table with the score 1.

    Raises:
        DataError: a mask that cannot be read, or of another shape than its image.
    """
    rows, labelled = [], cases[cases["mask"] != ""]
    for case in track(labelled.itertuples(), len(labelled), "boxes from masks"):
        labels = read_reference(case, task)
        rng = np.random.default_rng([seed, zlib.crc32(case.case.encode())])
        for box in boxes_of(labels):
            rows.append((case.case, *_jittered(box, labels.shape, jitter, rng), 1.0))
    corners = CORNERS_3D if rows and len(rows[0]) == 8 else CORNERS
    return pd.DataFrame(rows, columns=["case", *corners, "score"])


def sure_or_best(boxes: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Boxes of at least this score, and of cases without one the best that there is.

    Example:
        >>> boxes = [("a", 1, 1, 5, 5, 0.9), ("a", 7, 7, 9, 9, 0.2), ("b", 1, 1, 5, 5, 0.1)]
        >>> sure_or_best(pd.DataFrame(boxes, columns=COLUMNS), 0.5)["score"].tolist()
        [0.9, 0.1]
    """
    best = boxes.groupby("case")["score"].transform("max")
    first = boxes["score"].eq(best) & ~boxes.duplicated(["case", "score"])
    return boxes[boxes["score"].ge(confidence) | first].reset_index(drop=True)


def boxes_from_probabilities(cases: pd.DataFrame, probabilities, task) -> pd.DataFrame:
    """Boxes around what a student finds, for a second round with its own prompts.

    Args:
        cases: a case table.
        probabilities: of each case, `(*spatial, channels)`, as `predict_all` gives them.
        task: of the student; a box goes around any class.

    Returns:
        A box table; the score is the mean probability of the pixels that the box was drawn around.
        Of volumes it has six corners.

    Example:
        >>> from keras_meduda.data.cases import case_table
        >>> from keras_meduda.task import Task
        >>> p = np.zeros((20, 20, 1))
        >>> p[5:9, 4:12] = 0.75
        >>> cases = case_table([{"case": "a", "image": "a.png"}])
        >>> boxes_from_probabilities(cases, [p], Task(("t",), True)).to_numpy().tolist()
        [['a', 4, 5, 12, 9, 0.75]]
    """
    rows, corners = [], CORNERS
    for case, p in zip(cases["case"], probabilities, strict=True):
        foreground = p.max(axis=-1) if task.overlapping else 1 - p[..., 0]
        rank = foreground.ndim
        corners = CORNERS_3D if rank == 3 else CORNERS
        for box in boxes_of(foreground > 0.5).tolist():
            edges = list(map(slice, box[:rank], box[rank:]))
            inside = foreground[tuple(edges if rank == 3 else edges[::-1])]
            rows.append((case, *box, float(inside[inside > 0.5].mean())))
    return pd.DataFrame(rows, columns=["case", *corners, "score"])


def write_boxes(boxes: pd.DataFrame, path) -> None:
    """Writes a box table with two decimals, in one step or not at all.

    `data.boxes.read_boxes` reads it.

    Args:
        boxes: a box table.
        path: the CSV file.

    Example:
        >>> from keras_meduda.data.boxes import read_boxes
        >>> path = getfixture("tmp_path") / "boxes.csv"
        >>> write_boxes(pd.DataFrame([("a", 1, 2, 30, 40, 0.9)], columns=COLUMNS), path)
        >>> read_boxes(path).loc[0, "x1"].item()
        30
    """
    with replacing(path) as unfinished:
        boxes[["case", *corners_in(boxes), "score"]].round(2).to_csv(unfinished, index=False)


def corners_in(boxes: pd.DataFrame) -> list[str]:
    """Names of the columns of a box table that hold corners: of volumes there are six."""
    return CORNERS_3D if {"z0", "z1"} <= set(boxes) else CORNERS


def boxes_by_case(boxes: pd.DataFrame, cases: pd.DataFrame, where="boxes") -> dict:
    """Corners and score of each case's boxes, `{case: (n, 5) float32}`, checked with its image.

    Of volumes they are `(n, 7)`.

    Args:
        boxes: a box table; rows of other cases are left out.
        cases: the case table.
        where: the file that problems are reported for.

    Raises:
        DataError: every box that is empty or not within its image, all in one list; no box of any
            of the cases; names that two domains share.
    """
    check_names(cases)
    groups, names = dict(list(boxes.groupby("case", sort=False))), corners_in(boxes)

    def of_case(case):
        if case.case not in groups:
            return np.zeros((0, len(names) + 1), "float32")
        scored = groups[case.case][[*names, "score"]].to_numpy("float32")
        shape = read_image(case.image).array.shape[:-1]
        if 2 * len(shape) != len(names):
            raise DataError(Problem(where, f"boxes with {', '.join(names)}", f"those of {shape}"))
        size = shape if len(shape) == 3 else shape[::-1]
        within = " and ".join(f"0 ≤ {a}0 < {a}1 ≤ {n}" for a, n in zip("xyz", size, strict=False))
        low, high = scored[:, : len(size)], scored[:, len(size) : -1]
        good = (low >= 0).all(axis=1) & (low < high).all(axis=1) & (high <= size).all(axis=1)
        problems = [
            Problem(
                where,
                f"the box {' '.join(f'{edge:g}' for edge in box[:-1])} of {case.case!r}",
                f"{within}, pixels of {case.image}",
            )
            for box in scored[~good].tolist()
        ]
        if problems:
            raise DataError(*problems)
        return scored

    found = dict(zip(cases["case"], each(of_case, list(cases.itertuples()), "boxes"), strict=True))
    if not any(map(len, found.values())):
        raise DataError(
            Problem(where, f"no box of any of {len(cases)} cases", "names as in the case table")
        )
    return found


def check_names(cases: pd.DataFrame) -> None:
    """Boxes, targets and labels are kept by case name, so a name may stand for one case only.

    Raises:
        DataError: names that several domains share, or that hold a slash, as files and groups of
            HDF5 cannot.
    """
    shared = set(cases["case"][cases["case"].duplicated()])
    nested = {name for name in cases["case"] if "/" in name}
    problems = [
        Problem("case table", f"{found} {', '.join(sorted(names)[:5])}", expected)
        for names, found, expected in [
            (shared, "several cases named", "names unique in the whole table"),
            (nested, "a slash in the names", "names without one"),
        ]
        if names
    ]
    if problems:
        raise DataError(*problems)


def yolo_label(boxes, shape) -> str:
    r"""The label file of one image: a line `0 xc yc w h` a box, in shares of the image.

    An image without a tumour gets an empty file, which teaches a detector the background.

    Args:
        boxes: `(n, 4)` pixels.
        shape: `(height, width)`.

    Example:
        >>> yolo_label([(10, 20, 30, 60)], (100, 50))
        '0 0.400000 0.400000 0.400000 0.400000\n'
    """
    height, width = shape
    return "".join(
        f"0 {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
        f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
        for x0, y0, x1, y1 in boxes
    )


def write_yolo(cases: pd.DataFrame, task, folder, name: str = "tumour", seed: int = 0) -> Path:
    """Writes labelled cases as a YOLO data set.

    `images/{train,val}/<case>.png` (three 8-bit channels, as the teachers see them),
    `labels/{train,val}/<case>.txt` and `data.yaml`. A fifth of the groups validates. It appears
    whole or not at all, in the place of an earlier one.

    Args:
        cases: a case table with masks.
        task: declares the values of the mask files.
        folder: where to; one that is missing, empty, or holds what this function wrote.
        name: of the one class. Default `"tumour"`.
        seed: of the split. Default 0.

    Returns:
        The path of `data.yaml`.

    Raises:
        DataError: a case without a mask, names that two domains share, too few groups for both
            parts, an image that holds NaN, or a mask of another shape than its image.
        ValueError: a folder that holds something else.
    """
    check_names(cases)
    folder = Path(folder).absolute()
    mark = folder / "data.yaml"
    ours = mark.is_file() and mark.read_bytes().startswith(WRITTEN.encode())
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder}: received something that this library has not written; expected a folder "
            "that is missing, empty, or holds a YOLO data set of its own, which is replaced."
        )
    if unlabelled := cases["case"][cases["mask"] == ""].tolist():
        raise DataError(
            Problem(
                "case table",
                f"{len(unlabelled)} cases without a mask: {', '.join(unlabelled[:5])}",
                "masks, from which a detector learns; an image without a tumour has an empty one",
            )
        )
    parts = split_together(cases, {"train": 0.8, "val": 0.2}, seed)
    if not {"train", "val"} <= set(parts["split"]):
        raise DataError(
            Problem(
                "case table",
                f"{len(cases)} labelled cases of {cases['group'].nunique()} groups",
                "at least 3 groups, one of which validates the detector, better 50",
            )
        )
    fresh = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(fresh, ignore_errors=True)  # of a call that was interrupted
    for case in track(parts.itertuples(), len(parts), "writing YOLO data"):
        image, labels = read_labelled(case, task)
        picture = fresh / "images" / case.split / f"{case.case}.png"
        write_picture(picture, as_rgb(image.array))
        label = fresh / "labels" / case.split / f"{case.case}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(yolo_label(boxes_of(labels), labels.shape))
    (fresh / "data.yaml").write_text(
        f"{WRITTEN}path: {folder}\ntrain: images/train\nval: images/val\nnames:\n  0: {name}\n"
    )
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)
    return folder / "data.yaml"


def as_rgb(image) -> np.ndarray:
    """A picture as foundation models see it: three 8-bit channels, stretched to 0…255.

    Args:
        image: `(H, W, channels)` of any type; of 4 channels the last is alpha and dropped.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        ValueError: a volume.

    Example:
        >>> as_rgb(np.array([[[100], [150]]])).max()
        np.uint8(255)
    """
    if np.ndim(image) != 3:
        raise ValueError(
            f"Received an image of shape {np.shape(image)}, expected (H, W, channels)."
        )
    channels = image.shape[-1]
    image = image[..., : 3 if channels >= 3 else 1].astype("float32")
    low, high = image.min(), image.max()
    image = (image - low) * (255.0 / max(high - low, 1e-9))
    return np.repeat(np.rint(image).astype("uint8"), 3 // image.shape[-1], axis=-1)


def _boxes_of_volume(mask, speck):
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    kept = sizes >= speck if (sizes >= speck).any() else sizes > 0
    places = [place for place, keep in zip(ndimage.find_objects(pieces), kept, strict=True) if keep]
    boxes = [[s.start for s in place] + [s.stop for s in place] for place in places]
    order = np.argsort(-sizes[kept], kind="stable")
    return np.reshape(boxes, (-1, 6)).astype(int)[order]


def _jittered(box, shape, jitter, rng):
    """A box whose edges have moved, never so far that nothing is left."""
    size = shape[::-1] if len(shape) == 2 else shape
    moved = np.clip(box + rng.integers(-jitter, jitter + 1, len(box)), 0, np.tile(size, 2))
    whole = (moved[len(size) :] > moved[: len(size)]).all()
    return tuple(int(n) for n in (moved if whole else box))
