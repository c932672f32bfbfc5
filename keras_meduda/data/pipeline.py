"""From case tables to training batches: prepared arrays on disk, read in graph by tf.data.

Images are brought to the network's grid once and kept as raw arrays; training reads those in graph
code, so that no Python runs in a step. The n-th batch is a function of (seed, n) alone.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from keras_meduda.data.augment import (
    Deformation,
    Degradation,
    Geometry,
    Photometry,
    RandomCrop,
    on_grid,
    warp,
)
from keras_meduda.data.boundary import boundary_target
from keras_meduda.data.intensity import match_histogram
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
from keras_meduda.teachers.targets import open_targets, read_target


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

    @property
    def dtype(self):
        """What an image file holds: uint8, or float32 where images are z-scored."""
        return np.dtype("float32" if self.preprocessing.normalise == "zscore" else "uint8")

    @property
    def shape(self):
        """Shape of a prepared image, `(*size, channels)`."""
        return (*self.preprocessing.size, self.preprocessing.channels)


def prepared_bytes(cases: pd.DataFrame, preprocessing: Preprocessing, styles: int = 0) -> int:
    """Disk space that `prepare` and `add_styles` will take, in bytes; one a pixel for labels."""
    pixels = int(np.prod(preprocessing.size))
    item = 4 if preprocessing.normalise == "zscore" else 1
    images = len(cases) * (1 + styles) * preprocessing.channels * item
    return pixels * (images + int((cases["mask"] != "").sum()))


def prepare(
    cases: pd.DataFrame, task: Task, preprocessing: Preprocessing, folder, labels: bool
) -> Prepared:
    """Brings cases to the network's grid and keeps them on disk; what is there already is reused.

    Args:
        cases: a case table.
        task: what is segmented.
        preprocessing: the network's grid and range.
        folder: where prepared arrays are kept. A changed file or setting gets a new one.
        labels: whether masks are read. `False` for a target: its mask column is never touched.

    Returns:
        The prepared files, in the order of the table.

    Raises:
        DataError: a file that cannot be read, or a case without a mask where labels are asked for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def image_file(row):
        path = folder / f"{_digest(image_files(row.image), to_json(preprocessing))}.image"
        if not path.exists():
            _write(path, preprocessing.stored(read_image(row.image).array))
        return str(path)

    def label_file(row):
        if not row.mask:
            raise DataError(Problem(row.image, "no mask", "one for every case that gives labels"))
        files = [file for _, file in mask_files(row.mask)]
        path = folder / f"{_digest(files, row.mask, to_json(task), preprocessing.size)}.label"
        if not path.exists():
            _write(path, resize(read_mask(row.mask, task), preprocessing.size, linear=False))
        return str(path)

    rows = list(cases.itertuples())
    return Prepared(
        task,
        preprocessing,
        images=_each(image_file, rows, "preparing images"),
        labels=_each(label_file, rows, "preparing masks") if labels else (),
    )


def add_styles(
    prepared: Prepared, references: Prepared, folder, variants: int = 4, seed: int = 0
) -> Prepared:
    """Adds style twins: each image with the histogram of randomly drawn images of the other domain.

    Written once, seeded; never matched during training.

    Args:
        prepared: the images to restyle.
        references: the images whose histograms they take.
        folder: where prepared arrays are kept.
        variants: twins an image, each of another reference while there are any. Default 4.
        seed: of the draw of references.
    """
    every = np.tile(np.arange(len(references.images)), (len(prepared.images), 1))
    draw = np.random.default_rng(seed).permuted(every, axis=1)[:, :variants]

    def twins(item):
        path, drawn = item
        image = _read(path, prepared)
        files = []
        for index in drawn:
            reference = references.images[index]
            twin = Path(folder) / f"{Path(path).stem}-{Path(reference).stem}.image"
            if not twin.exists():
                _write(twin, match_histogram(image, _read(reference, references)))
            files.append(str(twin))
        return tuple(files)

    items = list(zip(prepared.images, draw, strict=True))
    return replace(prepared, styles=_each(twins, items, "preparing styles"))


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

    Raises:
        DataError: a missing or damaged file or case, embeddings of several shapes, or no case that
            succeeded.
    """
    folder, size = Path(folder), prepared.preprocessing.size
    images, masks, variances, entropies, features, shapes = [], [], [], [], [], set()
    with open_targets(targets) as file:
        for case, image in zip(cases["case"], prepared.images, strict=True):
            target = read_target(file, case)
            if target is None:
                continue
            name = f"{Path(image).stem}-{file[case].attrs['checksum'][:24]}"
            mask, feature = folder / f"{name}.teacher", folder / f"{name}.features"
            if not mask.exists():
                probability = target.probability.astype("float32")[..., None]
                _write(mask, resize(probability, size).astype("float16"))
            if target.embedding is not None:
                shapes.add(target.embedding.shape)
                features.append(str(feature))
                if not feature.exists():
                    _write(feature, target.embedding)
            images.append(image)
            masks.append(str(mask))
            variances.append(target.variance)
            entropies.append(target.entropy)
    if not images or len(shapes) > 1:
        found = f"embeddings of the shapes {sorted(shapes)}" if images else "no case that succeeded"
        expected = "images of one shape" if images else "cases with a soft mask"
        raise DataError(Problem(targets, found, expected))
    taught = Taught(tuple(masks), tuple(variances), tuple(entropies))
    if len(features) == len(images):
        taught = replace(taught, features=tuple(features), feature_shape=shapes.pop())
    return replace(prepared, images=tuple(images), teacher=taught)


@dataclass(frozen=True)
class Batches:
    """Training batches of 2D images: `{"source": …, "target": …}`.

    A source holds `image`, `mask` and on request `boundary`, a target `image`, `strong` and, where
    there are twins, `style`; where there is a teacher, `teacher` (its soft mask, one channel),
    `teacher_variance`, `teacher_entropy` and perhaps `teacher_features`. Either half is optional; a
    target has no mask by construction. All views of an image go through the same geometry.

    Args:
        batch_size: images of each domain in a batch.
        seed: of order and augmentation.
        source: labelled cases.
        target: unlabelled cases.
        geometry: how far images are moved.
        photometry: how far a target's strong view is recoloured; `None`, not at all, is needed for
            z-scored images.
        source_photometry: the same for source images. Default `None`. Source style twins, where
            there are any, replace half of the source images.
        crop: `RandomCrop` of source images, cut out once they have been moved. Default `None`,
            the whole image.
        target_photometry: how far target images are changed ahead of their strong view. Default
            `None`.
        boundary: whether a source also holds `boundary`, see `data.boundary`. Default `False`.

    Raises:
        ValueError: no cases, a source without labels, halves that were prepared differently,
            photometry of z-scored images, or a crop that is larger than the images or has no
            labels to choose its place by.
        NotImplementedError: volumes.
    """

    batch_size: int
    seed: int = 0
    source: Prepared | None = None
    target: Prepared | None = None
    geometry: Geometry | Deformation = Geometry()
    photometry: Photometry | None = Photometry()
    source_photometry: Photometry | Degradation | None = None
    crop: RandomCrop | None = None
    target_photometry: Photometry | Degradation | None = None
    boundary: bool = False

    def __post_init__(self):
        halves = [half for half in (self.source, self.target) if half is not None]
        if not halves or not all(half.images for half in halves):
            raise ValueError(
                "Batches: expected a source, a target or both, with cases in each; "
                f"received {[len(half.images) for half in halves]} cases."
            )
        if self.source is not None and not self.source.labels:
            raise ValueError(
                "Batches: the source has no labels; expected prepare(..., labels=True)."
            )
        if len(ways := {half.preprocessing for half in halves}) > 1:
            raise ValueError(f"Batches: source and target are prepared differently: {ways}.")
        if len(self.preprocessing.size) != 2:
            raise NotImplementedError(f"Batches are 2D; these have size {self.preprocessing.size}.")
        recoloured = self.source and self.source_photometry
        recoloured = recoloured or self.target and (self.photometry or self.target_photometry)
        if recoloured and self.preprocessing.normalise == "zscore":
            raise ValueError(
                "Batches: photometry recolours 8-bit images; for z-scored ones pass "
                "photometry=None and leave source_photometry and target_photometry out."
            )
        if self.target and self.target.teacher and isinstance(self.geometry, Deformation):
            raise ValueError("Batches: a teacher's targets follow a Geometry, not a Deformation.")
        if self.crop and self.target:
            raise ValueError("Batches: crop needs labels, which a target does not have.")
        size = self.preprocessing.size
        if self.crop and any(c > n for c, n in zip(self.crop.size, size, strict=True)):
            raise ValueError(
                f"Batches: crop {self.crop.size} is larger than the prepared images {size}."
            )

    @property
    def task(self):
        """The task of the cases."""
        return (self.source or self.target).task

    @property
    def preprocessing(self):
        """The preprocessing of the cases."""
        return (self.source or self.target).preprocessing

    def from_step(self, first_step: int) -> tf.data.Dataset:
        """The endless data set of batches whose first is the `first_step`-th."""
        halves = {}
        if self.source is not None:
            halves["source"] = self._half(self._source_sample, first_step)
        if self.target is not None:
            halves["target"] = self._half(self._target_sample, first_step)
        return tf.data.Dataset.zip(halves).prefetch(2)

    def _half(self, sample, first_step):
        first = tf.constant(first_step * self.batch_size, "int64")
        numbers = tf.data.Dataset.range(first, np.iinfo("int64").max)
        samples = numbers.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return samples.batch(self.batch_size, drop_remainder=True)

    def _source_sample(self, number):
        data = self.source
        seeds = tf.random.split(tf.stack([tf.cast(self.seed, "int64"), 2 * number]), 4)
        index = _position(number, len(data.images), self.seed)
        image = _read_in_graph(data.images, index, data)
        if data.styles:
            image = tf.where(_uniform(seeds[3]) < 0.5, image, _random_style(data, index, seeds[2]))
        labels = tf.io.decode_raw(tf.io.read_file(tf.gather(data.labels, index)), "uint8")
        labels = tf.reshape(labels, (*data.shape[:-1], 1))
        move = self.geometry.sample(seeds[0], *data.shape[:2])
        image = self.geometry.apply(image, move)
        labels = self.geometry.apply(labels, move, nearest=True)
        if self.crop:
            place = self.crop.sample(tf.random.fold_in(seeds[0], 1), labels[..., 0])
            image, labels = self.crop.apply(image, place), self.crop.apply(labels, place)
        image = _recoloured(image, self.source_photometry, seeds[1])
        mask = _one_hot(labels[..., 0], data.task)
        sample = {"image": data.preprocessing.normalised(image), "mask": mask}
        if self.boundary:
            sample["boundary"] = boundary_target(mask if data.task.overlapping else mask[..., 1:])
        return sample

    def _target_sample(self, number):
        data = self.target
        seeds = tf.random.split(tf.stack([tf.cast(self.seed, "int64"), 2 * number + 1]), 3)
        index = _position(number, len(data.images), self.seed + 1)
        move = self.geometry.sample(seeds[0], *data.shape[:2])
        image = self.geometry.apply(_read_in_graph(data.images, index, data), move)
        image = _recoloured(image, self.target_photometry, tf.random.fold_in(seeds[1], 1))
        views = {"image": image, "strong": _recoloured(image, self.photometry, seeds[1])}
        if data.styles:
            views["style"] = self.geometry.apply(_random_style(data, index, seeds[2]), move)
        views = {name: data.preprocessing.normalised(view) for name, view in views.items()}
        return {**views, **_taught(data, index, move)} if data.teacher else views


def _taught(data, index, move):
    """The teacher's targets of an image that has been moved."""
    teacher, size = data.teacher, data.shape[:2]
    views = {
        "teacher": warp(_read_half(teacher.masks, index, (*size, 1)), move),
        "teacher_variance": tf.gather(tf.constant(teacher.variances, "float32"), index),
        "teacher_entropy": tf.gather(tf.constant(teacher.entropies, "float32"), index),
    }
    if teacher.features:
        features = _read_half(teacher.features, index, teacher.feature_shape)
        views["teacher_features"] = warp(features, on_grid(move, size, teacher.feature_shape))
    return views


def _read_half(paths, index, shape):
    raw = tf.io.decode_raw(tf.io.read_file(tf.gather(paths, index)), "float16")
    return tf.cast(tf.reshape(raw, shape), "float32")


def _position(number, count, seed):
    """Which of `count` cases the `number`-th sample is: each pass its own permutation."""
    turn = tf.stack([tf.cast(seed, "int64"), number // count])
    order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype="int64"), turn)
    return order[number % count]


def _uniform(seed):
    return tf.random.stateless_uniform([], seed)


def _recoloured(image, photometry, seed):
    return image if photometry is None else photometry.apply(image, photometry.sample(seed))


def _random_style(data, index, seed):
    twins = tf.gather(tf.constant(data.styles), index)
    choice = tf.random.stateless_uniform([], seed, 0, len(data.styles[0]), dtype="int32")
    return _read_in_graph(twins, choice, data)


def _read_in_graph(paths, index, data):
    raw = tf.io.decode_raw(tf.io.read_file(tf.gather(paths, index)), data.dtype)
    return tf.cast(tf.reshape(raw, data.shape), "float32")


def _one_hot(labels, task):
    """`Task.one_hot` in graph."""
    channel = tf.range(task.channels, dtype="int32")
    labels = tf.cast(labels, "int32")[..., None]
    hot = tf.bitwise.right_shift(labels, channel) & 1 if task.overlapping else labels == channel
    return tf.cast(hot, "float32")


def _read(path, data):
    return np.fromfile(path, data.dtype).reshape(data.shape)


def _write(path, array):
    """Atomically, so that an interrupted preparation leaves whole files only."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(np.ascontiguousarray(array).data)  # tofile hides a full disk


def _digest(files, *settings):
    """Name of a prepared file: of its input files (path, size, time of change) and settings."""
    stamps = [(f, (s := os.stat(f)).st_size, s.st_mtime_ns) for f in files if os.path.exists(f)]
    text = json.dumps([files, stamps, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _each(function, items, description):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(track(pool.map(function, items), len(items), description))
