"""Box tables as detectors and other programs write them: corners in pixels of what they hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cases import read_table
from keras_meduda.data.files import visible_files
from keras_meduda.data.io import DataError, Problem, read_shape

CORNERS = ["x0", "y0", "x1", "y1"]
FORMS = {  # of boxes, and their columns
    "corners": CORNERS,
    "xywh": ["x", "y", "width", "height"],
    "centre": ["xc", "yc", "width", "height"],
}


def read_boxes(path, form="corners", unit="px", cases=None) -> pd.DataFrame:
    """The boxes of a CSV file as corners in pixels, with a `score` where the file has none: 1.

    | form      | columns beside `case`      | of                                           |
    |-----------|----------------------------|----------------------------------------------|
    | `corners` | `x0, y0, x1, y1`           | this library; of volumes `z0` and `z1` too   |
    | `xywh`    | `x, y, width, height`      | COCO: the left upper corner, and the size    |
    | `centre`  | `xc, yc, width, height`    | YOLO: the middle, and the size               |

    Args:
        path: the file; or a folder of YOLO's text files `<case>.txt`, a line `class xc yc width
            height`, with the confidence behind it if it is known: in form `centre`, unit `share`.
        form: what its four numbers are. Default `"corners"`.
        unit: `"px"`, or `"share"` of the image's width and height. Default `"px"`.
        cases: the case table, whose images give their size to shares; boxes of other cases stay
            shares.

    Returns:
        A frame `case, x0, y0, x1, y1, score`, numbers but for the case.

    Raises:
        DataError: what `read_table` says, values that are no numbers, an empty box, pixels that
            look like shares, or shares that leave the image.
        ValueError: another form or unit.
    """
    if form not in FORMS or unit not in ("px", "share") or unit == "share" and cases is None:
        raise ValueError(
            f"read_boxes: form={form!r}, unit={unit!r}; expected one of {', '.join(FORMS)}, and "
            "'px' or, with a case table, 'share'."
        )
    names = list(FORMS[form])
    of_folder = Path(path).is_dir() and (form, unit) == ("centre", "share")
    if Path(path).is_dir() and not of_folder:
        expected = "a table; a folder of YOLO's text files is --box-form centre --box-unit share"
        raise DataError(Problem(path, "a folder", expected))
    table = _yolo(path) if of_folder else _table(path, names)
    if {"z0", "z1"} <= set(table) and (form, unit) == ("corners", "px"):
        names = ["x0", "y0", "z0", "x1", "y1", "z1"]  # of volumes
    table["score"] = table.get("score", "1")
    boxes = table[["case"]].join(table[[*names, "score"]].apply(pd.to_numeric, errors="coerce"))
    boxes = boxes.rename(columns=dict(zip(FORMS[form], CORNERS, strict=True)))
    if form == "centre":
        boxes[["x0", "y0"]] -= boxes[["x1", "y1"]].to_numpy() / 2
    if form != "corners":
        boxes[["x1", "y1"]] += boxes[["x0", "y0"]].to_numpy()
    corners = boxes[CORNERS]
    good = (boxes["x1"] > boxes["x0"]) & (boxes["y1"] > boxes["y0"]) & boxes["score"].notna()
    good &= np.isfinite(boxes[boxes.columns[1:]].astype(float)).all(axis=1)
    if "z1" in boxes:
        good &= boxes["z1"] > boxes["z0"]
    expected = "finite numbers x0 < x1, y0 < y1 (and a score, where there is that column)"
    if form != "corners":
        expected = "finite numbers, and a width and height above 0"
    if good.all() and unit == "share":
        good = ((corners > -1e-6) & (corners < 1 + 1e-6)).all(axis=1)
        expected = "shares of the image within 0…1; pixels are --box-unit px"
    elif good.all():
        tiny = (corners <= 1).all(axis=1)
        good = ~tiny if tiny.all() else ~(tiny & (corners % 1 != 0).any(axis=1))
        expected = "pixels; shares of the image's width and height are --box-unit share"
    if not good.all():
        raise DataError(
            *(
                Problem(path, f"the box {' '.join(row[names])} of {row['case']!r}", expected)
                for _, row in table[~good].iterrows()
            )
        )
    if unit == "share":
        shapes = {case.case: read_shape(case.image) for case in cases.itertuples()}
        size = np.array([(*shapes.get(case, (1, 1))[:2],) for case in boxes["case"]])[:, ::-1]
        boxes[CORNERS] = corners.to_numpy() * np.tile(size, 2)
    return boxes


def _table(path, names):
    """A table with these columns; of one in another form the error says which."""
    try:
        return read_table(path, required=["case", *names])
    except DataError as error:
        form = next((form for form in FORMS if _is_in(form, path)), None)
        if form is None:
            raise
        hint = f"; these are of --box-form {form}"
        problems = [replace(p, expected=p.expected + hint) for p in error.problems]
        raise DataError(*problems) from error


def _is_in(form, path):
    """Whether a table has the columns of a form."""
    try:
        read_table(path, required=["case", *FORMS[form]])
    except DataError:
        return False
    return True


def _yolo(folder):
    """The text files of a folder as a table of strings."""
    rows, problems = [], []
    for file in visible_files(folder, deep=False):
        for line in file.read_text().splitlines() if file.suffix == ".txt" else ():
            cells = line.split()[1:]
            if len(cells) in (4, 5):
                rows.append((file.stem, *cells, *["1"][: 5 - len(cells)]))
            elif line.strip():
                found = f"the line {line!r}"
                problems.append(Problem(file, found, "class xc yc width height, and a confidence"))
    if problems or not rows:
        nothing = Problem(folder, "no box in a text file", "CASE.txt, as YOLO writes them")
        raise DataError(*problems or [nothing])
    return pd.DataFrame(rows, columns=["case", *FORMS["centre"], "score"])
