"""Prepared arrays: cases brought to the network's grid once and kept on disk as raw files.

One file an image, whether picture or volume, its values in the order of the axes: training reads
it, or the part of it that holds a patch, in graph code, so that no Python runs in a step.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.bands import BandStyle, order_changed, transfer
from keras_meduda.data.checks import check_grid
from keras_meduda.data.files import state_of
from keras_meduda.data.intensity import match_histogram, zscore
from keras_meduda.data.io import (
    DataError,
    Problem,
    image_files,
    mask_files,
    read_image,
    read_mask,
    replacing,
)
from keras_meduda.data.spatial import resize
from keras_meduda.progress import track
from keras_meduda.task import Preprocessing, Task, to_json
from keras_meduda.teachers.targets import attributes_of, open_targets, target_of

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
        taught = (self.teacher.masks, self.teacher.features) if self.teacher else ()
        files = (self.images, self.labels, *self.styles, *taught)
        names = json.dumps([[os.path.basename(path) for path in group] for group in files])
        return f"{len(self.images)} images, {hashlib.sha256(names.encode()).hexdigest()[:16]}"

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

    Up to 16 kB a labelled volume, for places of patches, come on top.
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
        folder: where prepared arrays are kept. A changed file or setting gets a new one.
        labels: whether masks are read. `False` for a target: its mask column is never touched.

    Returns:
        The prepared files, in the order of the table.

    Raises:
        DataError: a file that cannot be read, holds NaN or does not fit the preprocessing, a mask
            on another grid than its image, or a case without a mask where labels are asked for.
    """
    folder, volumes = Path(folder), len(preprocessing.size) == 3
    folder.mkdir(parents=True, exist_ok=True)

    def image_file(row):
        path = folder / f"{_digest(image_files(row.image), to_json(preprocessing))}.image"
        if not path.exists():
            image = read_image(row.image)
            if not np.isfinite(image.array).all():  # a single one would blank all z-scores
                raise DataError(Problem(row.image, "NaN or infinite values", "finite numbers"))
            stored = _fitting(row.image, preprocessing.stored, image.array, image.spacing)
            _write(path, stored.astype(_dtype(preprocessing), copy=False))
        return str(path)

    def label_file(row):
        if not row.mask:
            raise DataError(Problem(row.image, "no mask", "one for every case that gives labels"))
        files, place = [file for _, file in mask_files(row.mask)], preprocessing.size
        if volumes:  # they lie where their image does
            files += image_files(row.image)
            place = [getattr(preprocessing, name) for name in ("size", "axes", "spacing", "fit")]
        path = folder / f"{_digest(files, row.mask, to_json(task), place)}.label"
        if not path.exists():
            labels = read_mask(row.mask, task)
            check_grid(labels, row.mask, row.image)
            if volumes:
                image = read_image(row.image)
                arrays = labels, image.array, image.spacing
                labels = _fitting(row.mask, preprocessing.stored_labels, *arrays)
                _write(_voxels(path), _some_voxels(labels))  # first: with the labels all is there
            else:
                labels = resize(labels, preprocessing.size, linear=False)
            _write(path, labels)
        return str(path)

    rows = list(cases.itertuples())
    images = _each(image_file, rows, "preparing images", volumes)
    files = _each(label_file, rows, "preparing masks", volumes) if labels else ()
    voxels = tuple(str(_voxels(file)) for file in files) if volumes else ()
    return Prepared(task, preprocessing, images, files, voxels=voxels)


def add_styles(
    prepared: Prepared,
    references: Prepared,
    folder,
    variants: int = 4,
    seed: int = 0,
    by_bands: bool = False,
) -> Prepared:
    """Adds style twins: each image in the grey levels of randomly drawn images of the other domain.

    Written once, seeded; never matched during training. Of volumes the foreground alone is matched:
    what is not 0 if that is the background of their z-scores, else what is not darkest.

    Args:
        prepared: the images to restyle.
        references: the images whose grey levels they take.
        folder: where prepared arrays are kept.
        variants: twins an image, each of another reference while there are any. Default 4.
        seed: of the draw of references.
        by_bands: `False` gives a twin the histogram of its reference. `True` matches bands of grey
            levels by where they lie, which may change their order; for grey pictures and volumes
            of one contrast, see `data.bands`. Default `False`.

    Raises:
        ValueError: bands of images of colours or of several contrasts.
    """
    every = np.tile(np.arange(len(references.images)), (len(prepared.images), 1))
    draw = np.random.default_rng(seed).permuted(every, axis=1)[:, :variants]
    bands = _bands_between(prepared, references) if by_bands else None
    drawn_from = f"-{prepared.fingerprint[-16:]}-{references.fingerprint[-16:]}-{seed}"

    def restyled(number, index):
        image = prepared.image(prepared.images[number])
        reference = references.image(references.images[index])
        if not by_bands:
            return _restyled(image, reference, prepared.preprocessing)
        labels = prepared.label_map(prepared.labels[number]) if prepared.labels else None
        own, wanted = bands.own[number], bands.wanted[index]
        rng = np.random.default_rng([seed, number, index])
        twin = transfer(image, own, wanted, bands.sigma, reference, rng, labels)
        return _in_range(twin, image, prepared.preprocessing)

    def twins(item):
        number, drawn = item
        files = []
        for index in drawn:
            names = Path(prepared.images[number]).stem, Path(references.images[index]).stem
            twin = Path(folder) / f"{'-'.join(names)}{drawn_from if by_bands else ''}.image"
            if not twin.exists():
                _write(twin, restyled(number, index))
            files.append(str(twin))
        return tuple(files)

    items = list(enumerate(draw))
    volumes = len(prepared.preprocessing.size) == 3
    return replace(prepared, styles=_each(twins, items, "preparing styles", volumes))


def order_ratio(source: Prepared, target: Prepared, most: int = 12) -> float:
    """R of `data.bands.order_changed` between prepared images, at most so many of each domain."""
    some, others = (half.only(_spread(len(half.images), most)) for half in (source, target))
    labels = map(some.label_map, some.labels) if some.labels else None
    return order_changed(map(some.image, some.images), map(others.image, others.images), labels)


def _bands_between(prepared, references):
    labels = map(prepared.label_map, prepared.labels) if prepared.labels else None
    images = map(prepared.image, prepared.images), map(references.image, references.images)
    return BandStyle.between(*images, labels)


def _in_range(twin, image, preprocessing):
    """A twin as prepared files hold it: z-scored again, or whole numbers of 0…255."""
    if not preprocessing.zscored:
        return np.rint(np.clip(twin, 0, 255)).astype(image.dtype)
    inside = image != 0 if preprocessing.normalise == "zscore_foreground" else None
    return zscore(twin, inside).astype(image.dtype)


def _spread(count, most):
    """Numbers of at most so many of `count` things, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _restyled(image, reference, preprocessing):
    if len(preprocessing.size) == 2:
        return match_histogram(image, reference)

    def foreground(channel):
        background = 0 if preprocessing.normalise == "zscore_foreground" else channel.min()
        return (channel != background)[..., 0]

    twin = image.copy()
    for c in range(image.shape[-1]):
        own, wanted = image[..., c : c + 1], reference[..., c : c + 1]
        inside = foreground(own), foreground(wanted)
        if all(mask.any() for mask in inside):  # a blank volume has nothing to match
            twin[..., c : c + 1] = match_histogram(own, wanted, *inside)
    return twin


def add_teacher(prepared: Prepared, cases: pd.DataFrame, targets, folder) -> Prepared:
    """Adds a teacher's targets, its soft masks in the network's grid; failed cases are left out.

    Args:
        prepared: the images, in the order of `cases`.
        cases: the case table they were prepared from.
        targets: the HDF5 file of `make_teacher_targets.py`.
        folder: where prepared arrays are kept.

    Returns:
        The cases that the teacher has taught, `teacher` filled in. Without an embedding in every
        one of them there are no features, and the feature term of a distillation is dropped.
        Embeddings are resized to the grid of the first, as images are to the network's: SAM2's
        have the aspect of their image.

    Raises:
        DataError: a missing or damaged file or case, one whose image is not that which the teacher
            saw, embeddings of several widths, or no case that succeeded.
    """
    folder, size = Path(folder), prepared.preprocessing.size
    kept, masks, variances, entropies, features, shape = [], [], [], [], [], ()
    with open_targets(targets) as file:
        of_case = zip(cases.itertuples(), prepared.images, strict=True)
        for number, (row, image) in enumerate(of_case):
            case, target = row.case, target_of(file, row)
            if target is None:
                continue
            name = f"{Path(image).stem}-{attributes_of(file[case])['checksum'][:24]}"
            mask, embedding = folder / f"{name}.teacher", target.embedding
            if not masks:  # the first case stands for the others
                values = 2 * int(np.prod(size)) + (0 if embedding is None else embedding.nbytes)
                print(f"{folder}: at most {len(cases) * values / 1e9:.2f} GB of teacher's targets")
            if not mask.exists():
                probability = target.probability.astype("float32")[..., None]
                _write(mask, resize(probability, size).astype("float16"))
            if embedding is not None:
                shape = shape or embedding.shape
                if embedding.shape[-1] != shape[-1]:
                    found = f"embeddings {shape[-1]} and, of {case!r}, {embedding.shape[-1]} wide"
                    raise DataError(Problem(targets, found, "those of one teacher"))
                if embedding.shape != shape:
                    name = f"{name}-{'x'.join(map(str, shape[:-1]))}"
                feature = folder / f"{name}.features"
                features.append(str(feature))
                if not feature.exists():
                    fitting = resize(embedding.astype("float32"), shape[:-1])
                    _write(feature, fitting.astype("float16"))
            kept.append(number)
            masks.append(str(mask))
            variances.append(target.variance)
            entropies.append(target.entropy)
    if not kept:
        raise DataError(Problem(targets, "no case that succeeded", "cases with a soft mask"))
    taught = Taught(tuple(masks), tuple(variances), tuple(entropies))
    if len(features) == len(kept):
        taught = replace(taught, features=tuple(features), feature_shape=shape)
    return replace(prepared.only(kept), teacher=taught)


def _write(path, array):
    """Atomically, so that an interrupted preparation leaves whole files only."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(np.ascontiguousarray(array).data)  # tofile hides a full disk


def _digest(files, *settings):
    """Name of a prepared file: of its input files (path, size, time of change) and settings."""
    stamps = [(f, *state_of(f)) for f in files if os.path.exists(f)]
    text = json.dumps([files, stamps, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _voxels(path):
    """Where a label file's labelled voxels are listed."""
    return Path(path).with_suffix(".voxels")


def _some_voxels(labels):
    """Flat indices of labelled voxels, int32, in order; a fair draw where there are many."""
    found = np.flatnonzero(labels).astype("int32")
    if len(found) > VOXELS:
        found = np.sort(np.random.default_rng(0).choice(found, VOXELS, replace=False))
    return found


def _fitting(file, function, *arrays):
    """What the preprocessing makes of a file's arrays."""
    try:
        return function(*arrays)
    except ValueError as error:
        raise DataError(Problem(file, str(error), "one that fits the preprocessing")) from None


def _each(function, items, description, volumes):
    with ThreadPoolExecutor(min(THREADS, os.cpu_count()) if volumes else os.cpu_count()) as pool:
        return tuple(track(pool.map(function, items), len(items), description))
