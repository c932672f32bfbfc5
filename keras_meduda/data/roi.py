"""Square regions around the optic disc, and the way back to the full photograph."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data import spatial
from keras_meduda.data.boxes import CORNERS, read_boxes
from keras_meduda.data.cache import recorded, remove_outdated, states
from keras_meduda.data.cases import read_cases, write_cases
from keras_meduda.data.catalog import FUNDUS
from keras_meduda.data.channels import to_channels
from keras_meduda.data.files import each
from keras_meduda.data.io import (
    DataError,
    Problem,
    image_files,
    mask_files,
    read_image,
    read_mask,
    write_picture,
)

PLACE = ["x0", "y0", "full_width", "full_height"]  # columns that lead back to the full field


def disc_box(labels) -> tuple[int, int, int, int]:
    """The box `(x0, y0, x1, y1)` around all foreground of a mask, `x1` and `y1` exclusive.

    Args:
        labels: `(H, W)` array, 0 is background.

    Returns:
        Pixel numbers.

    Raises:
        ValueError: there is no foreground.

    Example:
        >>> disc_box(np.eye(5, dtype="uint8")[:4])
        (0, 0, 4, 4)
    """
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    if not len(rows):
        raise ValueError("disc_box: received a mask without foreground, expected a disc.")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def roi_square(box, scale=1.6, size=None) -> tuple[int, int, int]:
    """The square `(x0, y0, side)` centred on a box.

    side = ⌈scale · longer side of the box⌉; a disc of that diameter fills π/(4·scale²) of the
    square, 31 % at 1.6. The square may reach over the border of the image.

    Args:
        box: `(x0, y0, x1, y1)` in pixels.
        scale: side in diameters of the disc. Default 1.6.
        size: side in pixels, instead of `scale`. Default `None`.

    Returns:
        Whole pixels.

    Raises:
        ValueError: a side below one pixel.

    Example:
        >>> roi_square((40, 50, 60, 70))
        (34, 44, 32)
    """
    x0, y0, x1, y1 = box
    side = size or math.ceil(round(scale * max(x1 - x0, y1 - y0), 6))
    if side < 1:
        raise ValueError(
            f"roi_square: received scale {scale}, size {size}, expected a positive one."
        )
    return math.floor((x0 + x1 - side) / 2), math.floor((y0 + y1 - side) / 2), side


def paste(mask_roi, row, background=0) -> np.ndarray:
    """A region's mask back in the full photograph; undoes the cut inside the photograph.

    Args:
        mask_roi: `(h, w)` or `(h, w, channels)` on the pixels of the region.
        row: mapping with `x0`, `y0`, `full_width`, `full_height`, such as a row of the table that
            `prepare_rois` writes.
        background: value outside of the region. Default 0.

    Returns:
        `(full_height, full_width)`, with channels where the region has them.

    Example:
        >>> row = {"x0": "-1", "y0": "0", "full_width": "2", "full_height": "2"}
        >>> paste(np.array([[7, 1], [7, 2]]), row).tolist()
        [[1, 0], [2, 0]]
    """
    x0, y0, width, height = (int(row[name]) for name in PLACE)
    return spatial.paste(mask_roi, (y0, x0), (height, width), background)


def prepare_rois(cases, task, out, boxes=None, scale=1.6, size=None) -> pd.DataFrame:
    """Cut the disc region of every case and write it with a new case table.

    `<out>/<domain>/images/<case>.png`, `<out>/<domain>/masks/<case>.png` with 255 cup, 128 rim, 0
    background (`catalog.FUNDUS`), and `<out>/cases.csv`, which keeps all columns and adds `x0`,
    `y0`, `full_width`, `full_height` for `paste`. The table comes first and finished pictures are
    kept, so an interrupted run goes on where it stopped; where a case's files are not those that
    `<out>/made_from.json` names, of the same size and time of change, or its mask values are
    others, it is cut anew.

    A case with a box is cut by its box (of several that with the highest score), any other by its
    mask. Where a target's labels must stay unseen, give boxes.

    Args:
        cases: case table of photographs.
        task: the fundus `Task` of its masks.
        out: folder to write.
        boxes: CSV file `case,x0,y0,x1,y1` of the discs in pixels, or what `read_boxes` makes of
            another. Default: none.
        scale: side of the region in diameters of the disc. Default 1.6.
        size: side in pixels, instead of `scale`. Default `None`.

    Returns:
        The new table.

    Raises:
        DataError: every case that cannot be cut; cases whose names make one file; boxes of cases
            that are not in the table; or a folder that holds other regions.
    """
    if task.classes != FUNDUS.classes or not task.overlapping:
        raise ValueError(
            f"prepare_rois: received a task of {task.classes}, "
            f"expected overlapping {FUNDUS.classes}."
        )
    out = Path(out).absolute()
    box_of = {}
    if boxes is not None:
        frame = boxes if isinstance(boxes, pd.DataFrame) else read_boxes(boxes)
        boxes = "boxes" if frame is boxes else boxes
        table = frame.sort_values("score", kind="stable")  # the surest box is last
        corners = table[CORNERS].itertuples(index=False, name=None)
        box_of = dict(zip(table["case"], corners, strict=True))
        if unknown := sorted(set(box_of) - set(cases["case"])):
            found = f"boxes of {len(unknown)} cases that the table lacks, such as {unknown[0]!r}"
            raise DataError(Problem(boxes, found, f"names such as {cases['case'].iloc[0]!r}"))
        print(f"{len(box_of)} of {len(cases)} regions lie around a box, the others around a mask")
    if box_of and cases["case"].duplicated().any():
        raise DataError(
            Problem(
                boxes,
                "one box for cases of equal names in several domains",
                "names unique in the whole table",
            )
        )
    squares = each(
        lambda case: _square(case, task, box_of.get(case.case), scale, size),
        list(cases.itertuples()),
        "Finding discs",
    )
    table = cases.assign(**{name: [place[name] for _, place in squares] for name in PLACE})
    for kind in ("image", "mask"):
        table[kind] = [
            str(out / _safe(case.domain) / f"{kind}s" / f"{_safe(case.case)}.png")
            if getattr(case, kind)
            else ""
            for case in cases.itertuples()
        ]
    if table["image"].duplicated().any():
        raise DataError(
            *(
                Problem(path, f"the cases {list(rows['case'])}", "names that make a file for each")
                for path, rows in table.groupby("image")
                if len(rows) > 1
            )
        )
    _refuse_other_regions(out / "cases.csv", table)
    _refuse_files_of_others(out, cases, table)
    write_cases(table, out / "cases.csv")
    remove_outdated(out, _made_of(out, task, cases, table))
    each(
        lambda job: _cut(task, *job),
        [
            (case, square, target)
            for case, (square, _), target in zip(
                cases.itertuples(), squares, table.itertuples(), strict=True
            )
        ],
        "Cutting regions",
    )
    return table


def _safe(name):
    return re.sub(r"[^\w.-]+", "_", name)


def _square(case, task, box, scale, size):
    """The square of a case, and its place in the full field."""
    if case.mask and box is None:
        labels = read_mask(case.mask, task.of(case))
        shape = labels.shape
        box = disc_box(labels) if labels.ndim == 2 and labels.any() else None
    else:
        shape = read_image(case.image).array.shape[:-1]
    if len(shape) != 2:
        raise DataError(Problem(case.image, f"shape {shape}", "a picture (two axes)"))
    if box is None:
        raise DataError(Problem(case.image, "no box and no disc in a mask", "either"))
    if not (box[0] < shape[1] and box[1] < shape[0] and box[2] > 0 and box[3] > 0):
        found = f"a box at {tuple(round(float(edge), 1) for edge in box)}"
        raise DataError(Problem(case.image, found, f"one within the image of {shape[::-1]} px"))
    x0, y0, side = roi_square(box, scale, size)
    place = dict(zip(PLACE, map(str, (x0, y0, shape[1], shape[0])), strict=True))
    return (x0, y0, side), place


def _refuse_other_regions(path, table):
    """Finished pictures may be kept only if they show the same regions."""
    if not path.exists():
        return
    names = ["domain", "case", *PLACE]
    if not set(names) <= set(read_cases(path).columns):
        found = "a case table that meduda rois has not written"
        raise DataError(Problem(path, found, "another folder for the regions"))
    both = pd.concat([read_cases(path)[names], table[names]]).drop_duplicates()
    if both.duplicated(["domain", "case"]).any():
        raise DataError(
            Problem(
                path, "the same cases cut in another way", "the same settings, or an empty folder"
            )
        )


def _refuse_files_of_others(out, cases, table):
    """A region takes the place of an earlier region alone: of no input, and of no other file."""
    known, problems = recorded(out), []
    inputs = {os.path.realpath(file) for case in cases.itertuples() for file in _files(case)}
    for target in table.itertuples():
        own = Path(target.image).relative_to(out).as_posix() in known
        for path in filter(None, (target.image, target.mask)):
            if os.path.realpath(path) in inputs:
                problems.append(Problem(path, "an input in place of its region", "another --out"))
            elif os.path.exists(path) and not own:
                problems.append(Problem(path, "a file that is no region", "another --out"))
    if problems:
        raise DataError(*problems)


def _made_of(out, task, cases, table):
    """What each picture is made of, by its name: the files of its case, and how they are read."""
    values = list(task.label_of_value.items())
    return {
        Path(path).relative_to(out).as_posix(): [states(_files(case)), values]
        for case, target in zip(cases.itertuples(), table.itertuples(), strict=True)
        for path in filter(None, (target.image, target.mask))
    }


def _files(case):
    files = [*image_files(case.image), *(file for _, file in mask_files(case.mask))]
    return list(filter(None, files))


def _cut(task, case, square, target):
    """Write the region's picture and mask where they are not there yet."""

    def region(array, cell):
        full = (int(target.full_height), int(target.full_width))
        if array.shape[:2] != full:
            raise DataError(
                Problem(cell, f"shape {array.shape[:2]}", f"{full}, image and mask of one shape")
            )
        x0, y0, side = square
        return spatial.crop_or_pad(array, (y0, x0), (side, side))

    if not Path(target.image).exists():
        picture = read_image(case.image).array
        if picture.dtype.kind == "f":
            raise DataError(Problem(case.image, f"{picture.dtype} values", "8 or 16 bits"))
        if picture.shape[-1] == 2:  # grey with alpha, which few programs read
            try:
                picture = to_channels(picture, 1)
            except ValueError as error:
                raise DataError(Problem(case.image, str(error), "grey or colour")) from error
        write_picture(target.image, region(picture, case.image))
    if target.mask and not Path(target.mask).exists():
        labels = region(read_mask(case.mask, task.of(case)), case.mask)
        write_picture(target.mask, FUNDUS.decode(FUNDUS.one_hot(labels)))
