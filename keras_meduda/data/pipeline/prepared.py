"""Prepared arrays: cases brought to the network's grid once and kept on disk as raw files.

One file an image, whether picture or volume, its values in the order of the axes: training reads
it, or the part of it that holds a patch, in graph code, so that no Python runs in a step.
"""

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cache import Contents, digest, stored
from keras_meduda.data.checks import check_grid
from keras_meduda.data.files import each
from keras_meduda.data.io import DataError, Problem, image_files, mask_files, read_image, read_mask
from keras_meduda.data.spatial import resize
from keras_meduda.task import Preprocessing, Task, to_json

VOXELS = 4096  # at most so many labelled voxels of a volume are kept to centre patches on
THREADS = 4  # that prepare volumes: each takes six times a volume in float32 of memory


@dataclass(frozen=True)
class Taught:
    """What a teacher said about prepared images: one float16 file a soft mask, one an embedding."""

    masks: tuple[str, ...]
    variances: tuple[float, ...]
    entropies: tuple[float, ...]
    features: tuple[str, ...] = ()  # none where the teacher gives no embedding
    feature_shape: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()  # files as the masks'; none where every pixel weighs 1
    classes: int = 1  # soft masks in a file


@dataclass(frozen=True)
class Prepared:
    """Cases in the network's grid: one raw file an image, one a label map, lists of style twins."""

    task: Task
    preprocessing: Preprocessing
    images: tuple[str, ...]
    labels: tuple[str, ...] = ()
    styles: tuple[tuple[str, ...], ...] = ()
    teacher: Taught | None = None
    voxels: tuple[str, ...] = ()  # of labelled volumes: int32 flat indices of labelled voxels

    @property
    def dtype(self):
        """What an image file holds: uint8, or z-scores, float32 of pictures, float16 of volumes."""
        return _dtype(self.preprocessing)

    @property
    def fingerprint(self) -> str:
        """Number of images, and a digest of the names of all files, which are digests themselves.

        Not of their folder, which may move.
        """
        taught = self.teacher and (self.teacher.masks, self.teacher.features, self.teacher.weights)
        files = (self.images, self.labels, *self.styles, *(taught or ()))
        names = [[os.path.basename(path) for path in group] for group in files]
        return f"{len(self.images)} images, {digest(names)[:16]}"

    @property
    def shape(self):
        """Shape of a prepared image, `(*size, channels)`."""
        return (*self.preprocessing.size, self.preprocessing.channels)

    def image(self, path):
        """The array in one of its image or twin files, `(*size, channels)`."""
        return np.fromfile(path, self.dtype).reshape(self.shape)

    def label_map(self, path):
        """The labels in one of its label files, uint8 `(*size)`."""
        return np.fromfile(path, "uint8").reshape(self.shape[:-1])

    def only(self, kept):
        """The images of these numbers, with their labels and twins."""
        lists = {name: getattr(self, name) for name in ("images", "labels", "styles", "voxels")}
        return replace(self, **{k: tuple(v[i] for i in kept) for k, v in lists.items() if v})


def prepared_bytes(cases: pd.DataFrame, preprocessing: Preprocessing, styles: int = 0) -> int:
    """Disk space that `prepare` and `add_styles` will take, in bytes; one a pixel for labels.

    Up to 16 kB a labelled volume, for places of patches, come on top, and 60 bytes a file for what
    is known of it.
    """
    pixels = int(np.prod(preprocessing.size))
    item = _dtype(preprocessing).itemsize
    images = len(cases) * (1 + styles) * preprocessing.channels * item
    return pixels * (images + int((cases["mask"] != "").sum()))


def _dtype(preprocessing):
    floats = "float32" if len(preprocessing.size) == 2 else "float16"
    return np.dtype(floats if preprocessing.zscored else "uint8")


def prepare(
    cases: pd.DataFrame, task: Task, preprocessing: Preprocessing, folder, labels: bool
) -> Prepared:
    """Brings cases to the network's grid and keeps them on disk; what is there already is reused.

    Args:
        cases: a case table.
        task: what is segmented.
        preprocessing: the network's grid and range; of pictures or of volumes.
        folder: where prepared arrays are kept. A changed file or setting gets a new one; files that
            were copied or moved do not.
        labels: whether masks are read. `False` for a target: its mask column is never touched.

    Returns:
        The prepared files, in the order of the table.

    Raises:
        DataError: a file that cannot be read, holds NaN or does not fit the preprocessing, a mask
            on another grid than its image, or a case without a mask where labels are asked for.
    """
    volumes, held = len(preprocessing.size) == 3, Contents(folder)

    def prepared_case(row):
        """The paths of image, labels and labelled voxels; the image is read at most once."""
        image = functools.cache(lambda: _finite(row.image, preprocessing))

        def write_image(file):
            fitted = _fitting(row.image, preprocessing.stored, image().array, image().spacing)
            write_array(file, fitted.astype(_dtype(preprocessing), copy=False))

        def write_labels(file):
            array = read_mask(row.mask, encoded)
            check_grid(array, row.mask, row.image)
            if volumes:  # they lie where their image does
                arrays = array, image().array, image().spacing
                write_array(file, _fitting(row.mask, preprocessing.stored_labels, *arrays))
            else:
                write_array(file, resize(array, preprocessing.size, linear=False))

        files, settings = image_files(row.image), to_json(preprocessing)
        path = stored(folder, "image", [held.of(files), settings], write_image)
        if not labels:
            return (path,)
        if not row.mask:
            raise DataError(Problem(row.image, "no mask", "one for every case that gives labels"))
        classes, masks = zip(*mask_files(row.mask), strict=True)
        encoded = task.of(row)
        place = {name: settings[name] for name in ("size", "axes", "spacing", "fit")}
        # Of the image too: equal masks, such as empty ones, may lie beside images of other shapes.
        of = [held.of(files), held.of(masks), classes, to_json(encoded), place]
        label = stored(folder, "label", of, write_labels)
        return (path, label, _voxels(folder, label)) if volumes else (path, label)

    done = each(prepared_case, list(cases.itertuples()), "preparing", threads(preprocessing))
    held.keep()
    lists = dict(zip(("images", "labels", "voxels"), zip(*done, strict=True), strict=False))
    return Prepared(task, preprocessing, **{"images": (), **lists})


def write_array(path, array):
    """Writes an array's values in the order of its axes."""
    path.write_bytes(np.ascontiguousarray(array).data)  # tofile hides a full disk


def _finite(cell, preprocessing):
    """The image of a cell; a single NaN would blank all z-scores."""
    image = read_image(cell)
    if not np.isfinite(preprocessing.without_nan(image.array)).all():
        raise DataError(Problem(cell, "NaN or infinite values", "finite numbers"))
    return image


def _voxels(folder, label):
    """Flat indices of a label file's labelled voxels, int32, in order; a fair draw of many."""

    def write(file):
        found = np.flatnonzero(np.fromfile(label, "uint8")).astype("int32")
        if len(found) > VOXELS:
            found = np.sort(np.random.default_rng(0).choice(found, VOXELS, replace=False))
        write_array(file, found)

    return stored(folder, "voxels", Path(label).name, write)


def _fitting(file, function, *arrays):
    """What the preprocessing makes of a file's arrays."""
    try:
        return function(*arrays)
    except ValueError as error:
        raise DataError(Problem(file, str(error), "one that fits the preprocessing")) from None


def threads(preprocessing):
    """How many cases are prepared at once."""
    cores = os.cpu_count() or 1
    return min(THREADS, cores) if len(preprocessing.size) == 3 else cores
