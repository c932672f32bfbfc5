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

from keras_meduda.data.bands import BandStyle, order_changed, transfer
from keras_meduda.data.cache import Contents, digest, stored
from keras_meduda.data.checks import check_grid
from keras_meduda.data.files import each
from keras_meduda.data.intensity import in_proportion, match_histogram, zscore
from keras_meduda.data.io import DataError, Problem, image_files, mask_files, read_image, read_mask
from keras_meduda.data.spatial import crop_or_pad, resize
from keras_meduda.data.subset import evenly
from keras_meduda.task import Preprocessing, Task, to_json
from keras_meduda.teachers.targets import open_targets, target_of

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
            _write(file, fitted.astype(_dtype(preprocessing), copy=False))

        def write_labels(file):
            array = read_mask(row.mask, encoded)
            check_grid(array, row.mask, row.image)
            if volumes:  # they lie where their image does
                arrays = array, image().array, image().spacing
                _write(file, _fitting(row.mask, preprocessing.stored_labels, *arrays))
            else:
                _write(file, resize(array, preprocessing.size, linear=False))

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

    done = each(prepared_case, list(cases.itertuples()), "preparing", _threads(preprocessing))
    held.keep()
    lists = dict(zip(("images", "labels", "voxels"), zip(*done, strict=True), strict=False))
    return Prepared(task, preprocessing, **{"images": (), **lists})


def add_styles(
    prepared: Prepared,
    references: Prepared,
    folder,
    variants: int = 4,
    seed: int = 0,
    by_bands: bool = False,
    by_class: bool = False,
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
        by_class: whether a reference's levels count in the class proportions of the image that
            takes them, see `intensity.in_proportion`; both have labels then. Default `False`.

    Raises:
        ValueError: bands of images of colours or of several contrasts; `by_class` without labels,
            or of bands.
    """
    if by_class and (by_bands or not (prepared.labels and references.labels)):
        raise ValueError(
            f"add_styles: by_class with {len(prepared.labels)} labels of the images, "
            f"{len(references.labels)} of the references and by_bands={by_bands}; expected labels "
            "of both, and no bands."
        )
    every = np.tile(np.arange(len(references.images)), (len(prepared.images), 1))
    draw = np.random.default_rng(seed).permuted(every, axis=1)[:, :variants]
    bands = _bands_between(prepared, references) if by_bands else None
    drawn_from = [prepared.fingerprint, references.fingerprint, seed] if by_bands else []

    def restyled(number, index):
        image = prepared.image(prepared.images[number])
        reference = references.image(references.images[index])
        labels = prepared.label_map(prepared.labels[number]) if prepared.labels else None
        if not by_bands:
            there = references.label_map(references.labels[index]) if by_class else None
            return _restyled(image, reference, prepared.preprocessing, labels, there)
        own, wanted = bands.own[number], bands.wanted[index]
        rng = np.random.default_rng([seed, number, index])
        twin = transfer(image, own, wanted, bands.sigma, reference, rng, labels)
        return _in_range(twin, image, prepared.preprocessing)

    def twins(item):
        number, drawn = item
        files = []
        for index in drawn.tolist():
            names = [Path(prepared.images[number]).stem, Path(references.images[index]).stem]
            if by_class:
                names += [
                    Path(half.labels[i]).stem
                    for half, i in ((prepared, number), (references, index))
                ]

            def write(file, index=index):
                _write(file, restyled(number, index))

            files.append(stored(folder, "image", [*names, *drawn_from], write))
        return tuple(files)

    items, threads = list(enumerate(draw)), _threads(prepared.preprocessing)
    return replace(prepared, styles=each(twins, items, "preparing styles", threads))


def order_ratio(source: Prepared, target: Prepared, most: int = 12) -> float:
    """R of `data.bands.order_changed` between prepared images, at most so many of each domain."""
    some, others = (half.only(evenly(len(half.images), most)) for half in (source, target))
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


def _restyled(image, reference, preprocessing, labels=None, there=None):
    """An image in a reference's histogram; `there` are the labels by which its levels count."""

    def foreground(channel):
        if len(preprocessing.size) == 2:
            return np.ones(channel.shape[:-1], bool)
        background = 0 if preprocessing.normalise == "zscore_foreground" else channel.min()
        return (channel != background)[..., 0]

    twin = image.copy()
    for c in range(image.shape[-1]):
        own, wanted = image[..., c : c + 1], reference[..., c : c + 1]
        inside, within = foreground(own), foreground(wanted)
        if not (inside.any() and within.any()):  # a blank volume has nothing to match
            continue
        levels = wanted[within]
        if there is not None:
            levels = in_proportion(levels, there[within], labels[inside])
        twin[..., c : c + 1] = match_histogram(own, levels, inside)
    return twin


def add_teacher(prepared: Prepared, cases: pd.DataFrame, targets, folder) -> Prepared:
    """Adds a teacher's targets, its soft masks in the network's grid; failed cases are left out.

    Args:
        prepared: the images, in the order of `cases`.
        cases: the case table they were prepared from.
        targets: the table of `meduda teach`.
        folder: where prepared arrays are kept; embeddings stay where the teacher left them.

    Returns:
        The cases that the teacher has taught, `teacher` filled in. Without an embedding in every
        one of them there are no features, and the feature term of a distillation is dropped.
        Embeddings are resized to the grid of the first, as images are to the network's: SAM2's
        have the aspect of their image.

    Raises:
        DataError: a missing or damaged file or case, one whose image is not that which the teacher
            saw, embeddings of several widths, or no case that succeeded.
    """
    preprocessing, table = prepared.preprocessing, open_targets(targets)
    kept, masks, variances, entropies, features, shape = [], [], [], [], [], None
    weights, scored = [], (table["weight"] < 1).any()
    for number, row in enumerate(cases.itertuples()):
        target, name = target_of(table, row), table["target"][row.case]
        if target is None:
            continue
        kept.append(number)
        made_of = [Path(name).stem, table["temperature"][row.case]]
        place = _place_of(row.image, preprocessing)
        masks.append(_placed(folder, "teacher", made_of, target.probability, place, preprocessing))
        of, size = [*made_of, table["weight"][row.case]], target.probability.shape
        weigh = functools.partial(_weights, folder, of, place, preprocessing, size)
        doubted = scored or target.doubt is not None  # else made only if another case is in doubt
        weights.append(weigh(target.doubt) if doubted else weigh)
        variances.append(target.variance)
        entropies.append(target.entropy)
        if (embedding := target.embedding) is None:
            continue
        shape = shape or embedding.shape
        if embedding.shape[-1] != shape[-1]:
            found = f"embeddings {shape[-1]} and, of {row.case!r}, {embedding.shape[-1]} wide"
            raise DataError(Problem(targets, found, "those of one teacher"))
        same = embedding.shape == shape
        path = embedding.filename if same else None
        features.append(str(path or _resized(folder, "features", made_of, embedding, shape[:-1])))
    if not kept:
        raise DataError(Problem(targets, "no case that succeeded", "cases with a soft mask"))
    lists = [tuple(values) for values in (masks, variances, entropies)]
    weighed = any(isinstance(file, str) for file in weights)
    weights = [file if isinstance(file, str) else file() for file in weights] if weighed else ()
    taught = Taught(*lists, weights=tuple(weights))
    if len(features) == len(kept):
        taught = replace(taught, features=tuple(features), feature_shape=shape)
    return replace(prepared.only(kept), teacher=taught)


def _write(path, array):
    path.write_bytes(np.ascontiguousarray(array).data)  # tofile hides a full disk


def _placed(folder, kind, of, array, place, preprocessing):
    """A teacher's map in the network's grid, where its image lies, in half precision."""
    settings = to_json(preprocessing)
    grid = {name: settings[name] for name in ("size", "axes", "spacing", "fit")}

    def write(file):
        found, order = place(), preprocessing.order
        turned = np.asarray(array, "float32").transpose(order)[..., None]
        window = crop_or_pad(resize(turned, found.grid), found.start, preprocessing.size)
        _write(file, window.astype("float16"))

    return stored(folder, kind, [of, grid], write)


def _weights(folder, of, place, preprocessing, size, doubt=None):
    """The weights of a case's pixels, its score · (1 − 4 · doubt), in the network's grid."""
    doubt = np.zeros(size) if doubt is None else doubt
    weight = of[-1] * (1 - 4 * doubt.astype("float32"))
    return _placed(folder, "weight", of, weight, place, preprocessing)


def _place_of(cell, preprocessing):
    """A function that gives an image's `Placement`, for which it is read at most once."""

    def place():
        image = read_image(cell)
        return preprocessing.placement(image.array, image.spacing)

    return functools.cache(place)


def _resized(folder, kind, of, array, size):
    """An embedding in another grid, in half precision."""

    def write(file):
        _write(file, resize(np.asarray(array, "float32"), size).astype("float16"))

    return stored(folder, kind, [of, size], write)


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
        _write(file, found)

    return stored(folder, "voxels", Path(label).name, write)


def _fitting(file, function, *arrays):
    """What the preprocessing makes of a file's arrays."""
    try:
        return function(*arrays)
    except ValueError as error:
        raise DataError(Problem(file, str(error), "one that fits the preprocessing")) from None


def _threads(preprocessing):
    cores = os.cpu_count() or 1
    return min(THREADS, cores) if len(preprocessing.size) == 3 else cores
