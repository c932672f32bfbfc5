"""The MATLAB files of the Chiu 2015 data set as PNG: everything downstream reads pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image as Pillow
from scipy.io import loadmat

from keras_meduda.data.cache import made, states
from keras_meduda.data.cases import case_table, read_cases, write_cases
from keras_meduda.data.files import each
from keras_meduda.data.io import DataError, Problem, write_picture

KEYS = ("images", "manualFluid1")


def convert_chiu(files, folder, size=(256, 256)) -> pd.DataFrame:
    """Writes every labelled B-scan as `images/img_<n>.png` and `masks/img_<n>.png`, once.

    A B-scan is labelled where `manualFluid1` holds a number; n counts these in the order of the
    files. The fluid regions, numbered 1, 2, … in the files, become one class: 1 above 0.3, else 0.
    A pixel without a number (NaN) in a labelled B-scan is background, as nobody marked it, and
    counted in what is printed; the original's rule, 0 up to 0.3 and else 1, makes it fluid.

    Args:
        files: one `.mat` file a subject, `images` and `manualFluid1` `(rows, columns, B-scans)`.
        folder: where to, with a table `cases.csv`, which is written last. Where it was made of the
            same files, of the same size and time of change, nothing is written.
        size: of the pictures; image and mask go through Pillow's bicubic filter, as the published
            ones did. `None` keeps the files' own. Default `(256, 256)`.

    Returns:
        A case table with the column `subject`.

    Raises:
        DataError: every file that is not MATLAB's (before 7.3), lacks a key, holds no numbers, has
            no labelled B-scan or one that would be black, before any picture is written; a folder
            that cannot be written to.
    """
    folder = Path(folder)
    of = [states(files), size]
    return read_cases(made(folder / "cases.csv", of, lambda: _convert(files, folder, size)))


def _convert(files, folder, size):
    subjects = each(_labelled, files, "reading MATLAB files")
    rows, unmarked = [], 0
    for subject, scans in enumerate(subjects):
        for grey, mask, nans in scans:
            name = f"img_{len(rows)}"
            unmarked += nans
            row = {"case": name, "domain": "chiu", "subject": f"subject_{subject}"}
            for column, pixels in (("image", grey), ("mask", mask)):
                row[column] = folder / f"{column}s" / f"{name}.png"
                _write(row[column], pixels, size)
            rows.append(row)
    write_cases(case_table(rows), folder / "cases.csv")
    print(
        f"{folder}: wrote {len(rows)} B-scans of {len(files)} files as PNG, image and mask"
        + (f"; {unmarked} pixels without a number count as background" if unmarked else "")
    )


def _labelled(file):
    """The labelled B-scans of one subject: 8-bit picture, 0/1 mask, pixels without a number."""
    images, fluid = _read(file)
    labelled = np.flatnonzero(np.isfinite(fluid).any(axis=(0, 1)))
    for scan in labelled:
        if not (images[..., scan] > 1).any():
            found = f"images(:, :, {scan + 1}) without a value above 1"
            raise DataError(Problem(file, found, "grey values of 0 to 255"))
    return [
        (
            np.clip(np.rint(images[..., scan]), 0, 255).astype("uint8"),
            (np.nan_to_num(fluid[..., scan]) > 0.3).astype("uint8"),
            int(np.isnan(fluid[..., scan]).sum()),
        )
        for scan in labelled
    ]


def _read(file):
    """Images and fluid map of one subject, in float."""
    expected = f"a MATLAB file with {' and '.join(KEYS)}, (rows, columns, B-scans)"
    try:
        content = loadmat(file)
    except NotImplementedError as error:
        problem = Problem(file, "MATLAB's format 7.3 (HDF5)", "an older one: save(…, '-v7')")
        raise DataError(problem) from error
    except Exception as error:  # the reader raises nearly every type on damaged bytes
        raise DataError(Problem(file, f"no MATLAB file ({error})", expected)) from error
    if not set(KEYS) <= set(content):
        names = ", ".join(key for key in content if not key.startswith("__")) or "(none)"
        raise DataError(Problem(file, f"the keys {names}", expected))
    images, fluid = (np.asarray(content[key]) for key in KEYS)
    if images.ndim != 3 or images.shape != fluid.shape:
        raise DataError(Problem(file, f"the shapes {images.shape} and {fluid.shape}", expected))
    for key, array in zip(KEYS, (images, fluid), strict=True):
        if array.dtype.kind not in "buif":
            raise DataError(Problem(file, f"{key} that holds no numbers", expected))
    fluid = fluid.astype("float32")
    if not np.isfinite(fluid).any():
        raise DataError(Problem(file, "manualFluid1 that is NaN everywhere", "labelled B-scans"))
    return images, fluid


def _write(path, pixels, size):
    if size is not None:
        pixels = np.asarray(Pillow.fromarray(pixels).resize(size[::-1]))
    try:
        write_picture(path, pixels)
    except OSError as error:
        raise DataError(
            Problem(path, f"no way to write ({error.strerror})", "a writable folder: cache=…")
        ) from error
