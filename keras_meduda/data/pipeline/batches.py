"""Training batches in graph code: the n-th batch is a function of (seed, n) alone."""

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral

import numpy as np
import tensorflow as tf

from keras_meduda.data.augment import (
    Deformation,
    Effect,
    Geometry,
    Photometry,
    RandomCrop,
    RandomPatch,
    change,
    check_effect,
    on_grid,
    warp,
)
from keras_meduda.data.boundary import boundary_target
from keras_meduda.data.pipeline.prepared import Prepared

_LIBRARY = "keras_meduda."


@dataclass(frozen=True)
class Batches:
    """Training batches of pictures or volumes: `{"source": …, "target": …}`.

    A source holds `image`, `mask` and on request `boundary`, a target `image`, `strong` and, where
    there are twins, `style`; where there is a teacher, `teacher` (its soft masks),
    `teacher_variance`, `teacher_entropy` and perhaps `teacher_features`. Either half is optional; a
    target has no mask by construction. All views of an image go through the same geometry.

    Args:
        batch_size: images of each domain in a batch.
        seed: of order and augmentation.
        source: labelled cases.
        target: unlabelled cases; labels, if there are any, are forgotten at once.
        geometry: how far images are moved; volumes take a `Geometry`.
        photometry: how far a target's strong view is recoloured: an effect of `data.augment`, a
            tuple of them that are made in order, or `None`, not at all. z-scored images take an
            `Intensity`, not a `Photometry` or `Degradation`.
        source_photometry: the same for source images. Default `None`.
        crop: `RandomCrop` of source pictures, cut out once they have been moved. Default `None`,
            the whole image.
        target_photometry: how far target images are changed ahead of their strong view. Default
            `None`.
        boundary: whether a source also holds `boundary`, see `data.boundary`. Default `False`.
        patch: `RandomPatch` of large images, all that is read of them; moved on its own, mirrored
            at its border. Default `None`, the whole image.
        style_share: share of the source images that are replaced by one of their style twins, where
            there are any. Default 0.5.

    Raises:
        ValueError: no cases, a source without labels, halves that were prepared differently,
            photometry of the wrong range, an effect of one's own that is no graph code, what is for
            pictures with volumes or the reverse, a crop or patch that is larger than the images, or
            a crop or an effect of labels that a target does not have.
    """

    batch_size: int
    seed: int = 0
    source: Prepared | None = None
    target: Prepared | None = None
    geometry: Geometry | Deformation = Geometry()
    photometry: Effect | tuple[Effect, ...] | None = Photometry()
    source_photometry: Effect | tuple[Effect, ...] | None = None
    crop: RandomCrop | None = None
    target_photometry: Effect | tuple[Effect, ...] | None = None
    boundary: bool = False
    patch: RandomPatch | None = None
    style_share: float = 0.5

    def __post_init__(self):
        if not (isinstance(self.batch_size, Integral) and self.batch_size >= 1):
            raise ValueError(f"Batches: batch_size={self.batch_size}; expected 1 or more.")
        object.__setattr__(self, "batch_size", int(self.batch_size))  # NumPy's are no JSON
        object.__setattr__(self, "seed", int(self.seed))
        if not 0 <= self.style_share <= 1:
            raise ValueError(f"Batches: style_share={self.style_share}; expected 0 to 1.")
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
        self._check_ranges()
        if self.target and self.target.labels:  # none of a target can be reached from here on
            object.__setattr__(self, "target", replace(self.target, labels=(), voxels=()))
        if self.target and self.target.teacher and isinstance(self.geometry, Deformation):
            raise ValueError("Batches: a teacher's targets follow a Geometry, not a Deformation.")
        if self.crop and self.target:
            raise ValueError("Batches: crop needs labels, which a target does not have.")
        size = self.preprocessing.size
        of_pictures = {
            "a Deformation": isinstance(self.geometry, Deformation),
            **{f"a {type(e).__name__}": e.pictures_only for _, e in self._used()},
            "crop": self.crop,
            "a teacher's embeddings": any(
                half.teacher and half.teacher.features for half in halves
            ),
        }
        if len(size) == 3 and (found := [name for name, there in of_pictures.items() if there]):
            raise ValueError(
                f"Batches: {' and '.join(found)} of volumes {size}; that is for pictures. Volumes "
                "take a Geometry, effects such as an Intensity, and patch=RandomPatch(...)."
            )
        cut = self.crop or self.patch
        if cut and len(cut.size) != len(size):
            raise ValueError(f"Batches: patch {cut.size} of images of {size}; expected one rank.")
        if self.patch and any(half.teacher and half.teacher.features for half in halves):
            raise ValueError("Batches: a teacher's embeddings are of whole images, not of patches.")
        if cut and any(c > n for c, n in zip(cut.size, size, strict=True)):
            name = "crop" if self.crop else "patch"
            raise ValueError(
                f"Batches: {name} {cut.size} is larger than the prepared images {size}."
            )
        self._check_effects()

    def _check_ranges(self):
        for name, effect in self._used():
            if not isinstance(effect, Effect):
                raise ValueError(
                    f"Batches: {name}={effect!r}; expected a data.augment.Effect, several in a "
                    "tuple, or None."
                )
            shown = f"{name}={type(effect).__name__}(...)"
            if effect.reads_mask and name != "source_photometry":
                raise ValueError(f"Batches: {shown} needs labels, which a target does not have.")
            if effect.zscored not in (None, self.preprocessing.zscored):
                raise ValueError(
                    f"Batches: {shown} for images with "
                    f"normalise={self.preprocessing.normalise!r}; expected an Intensity or None "
                    "for z-scored images, a Photometry or Degradation for 8-bit ones."
                )

    def _check_effects(self):
        """Those of users; the library's own are tested, and tracing takes a third of a second."""
        own = [pair for pair in self._used() if not type(pair[1]).__module__.startswith(_LIBRARY)]
        for name, effect in own:
            try:
                check_effect(effect, self.shape, len(self.task.classes))
            except ValueError as error:
                raise ValueError(f"Batches: {name}: {error}") from error

    def _used(self):
        """The effects that are used, by the name of their argument."""
        names = ("source_photometry",) if self.source else ()
        names += ("photometry", "target_photometry") if self.target else ()
        return [(name, effect) for name in names for effect in _in_order(getattr(self, name))]

    @property
    def task(self):
        """The task of the cases."""
        return (self.source or self.target).task

    @property
    def preprocessing(self):
        """The preprocessing of the cases."""
        return (self.source or self.target).preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image of a batch, `(*size, channels)`."""
        cut = self.crop or self.patch
        size = cut.size if cut else self.preprocessing.size
        return (*size, self.preprocessing.channels)

    @property
    def settings(self) -> dict:
        """Fingerprint of the prepared files, and the augmentation settings."""
        halves = {"source": self.source, "target": self.target}
        views = {f.name: getattr(self, f.name) for f in fields(self)[4:]}
        if self.style_share == 0.5:  # as in runs from before there was a choice
            del views["style_share"]
        return {
            **{name: half.fingerprint for name, half in halves.items() if half},
            **{name: _described(value) for name, value in views.items()},
        }

    def from_step(self, first_step: int, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
        """The endless data set of batches whose first is the `first_step`-th.

        Of several workers each gets the `worker`-th of `workers` equal slices of every batch.
        """
        place = (first_step, worker, workers)
        halves = {}
        if self.source is not None:
            halves["source"] = self._half(self._source_sample, *place)
        if self.target is not None:
            halves["target"] = self._half(self._target_sample, *place)
        return tf.data.Dataset.zip(halves).prefetch(2)

    def _half(self, sample, first_step, worker, workers):
        share = self.batch_size // workers

        def sample_of(count):
            """The worker's `count`-th sample: its number among those of all workers."""
            return sample(count // share * self.batch_size + worker * share + count % share)

        first = tf.constant(first_step * share, "int64")
        counts = tf.data.Dataset.range(first, np.iinfo("int64").max)
        samples = counts.map(sample_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return samples.batch(share, drop_remainder=True)

    def _source_sample(self, number):
        data = self.source
        seeds = tf.random.split(tf.stack([tf.cast(self.seed, "int64"), 2 * number]), 4)
        index = _position(number, len(data.images), self.seed)
        file = tf.gather(data.images, index)
        if data.styles:
            twin = _random_style(data, index, seeds[2])
            file = tf.where(_uniform(seeds[3]) < 1 - self.style_share, file, twin)
        part = self._part(seeds[0], _labelled(data, index) if self.patch else None)
        image = _read(file, data.dtype, data.shape, **part)
        labels = _read(tf.gather(data.labels, index), "uint8", (*data.shape[:-1], 1), **part)
        move = self._move(seeds[0], image)
        image = self.geometry.apply(tf.cast(image, "float32"), move)
        labels = self.geometry.apply(labels, move, nearest=True)
        if self.crop:
            place = self.crop.sample(tf.random.fold_in(seeds[0], 1), labels[..., 0])
            image, labels = self.crop.apply(image, place), self.crop.apply(labels, place)
        mask = _one_hot(labels[..., 0], data.task)
        classes = mask[..., -len(data.task.classes) :]
        image = self._changed(image, self.source_photometry, seeds[1], classes)
        sample = {"image": data.preprocessing.normalised(image), "mask": mask}
        if self.boundary:
            sample["boundary"] = boundary_target(classes)
        return sample

    def _target_sample(self, number):
        data = self.target
        seeds = tf.random.split(tf.stack([tf.cast(self.seed, "int64"), 2 * number + 1]), 4)
        index = _position(number, len(data.images), self.seed + 1)
        part = self._part(seeds[0])

        def view(file):
            return tf.cast(_read(file, data.dtype, data.shape, **part), "float32")

        image = view(tf.gather(data.images, index))
        move = self._move(seeds[0], image)
        image = self.geometry.apply(image, move)
        image = self._changed(image, self.target_photometry, seeds[3])
        views = {"image": image, "strong": self._changed(image, self.photometry, seeds[1])}
        if data.styles:
            views["style"] = self.geometry.apply(view(_random_style(data, index, seeds[2])), move)
        views = {name: data.preprocessing.normalised(view) for name, view in views.items()}
        return {**views, **self._taught(index, move, part)} if data.teacher else views

    def _taught(self, index, move, part):
        """The teacher's targets of an image that has been moved."""
        teacher, size = self.target.teacher, self.target.shape[:-1]

        def moved(files, channels=1):
            found = _read(tf.gather(files, index), "float16", (*size, channels), **part)
            return self.geometry.apply(tf.cast(found, "float32"), move)

        views = {
            "teacher": moved(teacher.masks, teacher.classes),
            "teacher_variance": tf.gather(tf.constant(teacher.variances, "float32"), index),
            "teacher_entropy": tf.gather(tf.constant(teacher.entropies, "float32"), index),
        }
        if teacher.weights:
            views["teacher_weight"] = moved(teacher.weights)
        if teacher.features:
            features = _read(tf.gather(teacher.features, index), "float16", teacher.feature_shape)
            features, grid = tf.cast(features, "float32"), teacher.feature_shape
            views["teacher_features"] = warp(features, on_grid(move, size, grid))
        return views

    def _changed(self, image, photometry, seed, mask=None):
        return change(_in_order(photometry), image, seed, mask, not self.preprocessing.zscored)

    def _part(self, seed, voxels=None):
        """What is read of an image: the whole, or where its patch begins and how large it is."""
        if not self.patch:
            return {}
        seed = tf.random.fold_in(seed, 2)
        start = self.patch.sample(seed, self.preprocessing.size, voxels)
        return {"start": start, "size": self.patch.size}

    def _move(self, seed, image):
        size, axes = image.shape[:-1], self.preprocessing.axes
        return self.geometry.sample(seed, *size, **({"axes": axes} if len(size) == 3 else {}))


def _labelled(data, index):
    """Flat indices of labelled voxels: of volumes some that are kept, of pictures all."""
    if data.voxels:
        return tf.io.decode_raw(tf.io.read_file(tf.gather(data.voxels, index)), "int32")
    labels = tf.io.decode_raw(tf.io.read_file(tf.gather(data.labels, index)), "uint8")
    return tf.cast(tf.where(labels)[:, 0], "int32")


def _position(number, count, seed):
    """Which of `count` cases the `number`-th sample is: each pass its own permutation."""
    turn = tf.stack([tf.cast(seed, "int64"), number // count])
    order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype="int64"), turn)
    return order[number % count]


def _uniform(seed):
    return tf.random.stateless_uniform([], seed)


def _in_order(photometry):
    """The effects of an argument that takes one, several or none."""
    several = isinstance(photometry, tuple | list)
    return tuple(photometry) if several else () if photometry is None else (photometry,)


def _described(setting):
    """A setting as a run keeps it; of several effects each, of a single one as it always was."""
    if isinstance(setting, tuple | list):
        effects = [str(effect) for effect in setting]
        return str(None) if not effects else effects[0] if len(effects) == 1 else effects
    return str(setting)


def _random_style(data, index, seed):
    """The file of one of an image's twins."""
    choice = tf.random.stateless_uniform([], seed, 0, len(data.styles[0]), dtype="int32")
    return tf.gather(tf.gather(tf.constant(data.styles), index), choice)


def _read(file, dtype, shape, start=None, size=None):
    """An array of a file, or the part `(*size, C)` of it that begins at `start`.

    Of a part the slices along its first axis in which the part lies are read, in one go; smaller
    bricks, each a file, save bytes but no time.
    """
    if start is None:
        return tf.reshape(tf.io.decode_raw(tf.io.read_file(file), dtype), shape)
    slice_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    first = slice_bytes * tf.cast(start[0], "int64")
    slices = tf.data.FixedLengthRecordDataset(file, slice_bytes, first, buffer_size=2**20)
    slices = slices.take(size[0]).batch(size[0], drop_remainder=True).get_single_element()
    slices = tf.reshape(tf.io.decode_raw(slices, dtype), (size[0], *shape[1:]))
    return tf.slice(slices, tf.concat([[0], start[1:], [0]], 0), (*size, shape[-1]))


def _one_hot(labels, task):
    """`Task.one_hot` in graph."""
    channel = tf.range(task.channels, dtype="int32")
    labels = tf.cast(labels, "int32")[..., None]
    hot = tf.bitwise.right_shift(labels, channel) & 1 if task.overlapping else labels == channel
    return tf.cast(hot, "float32")
