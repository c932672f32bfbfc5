"""A teacher's soft masks and embeddings in the grid of the images that it has taught."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cache import stored
from keras_meduda.data.io import DataError, Problem, read_image
from keras_meduda.data.pipeline.prepared import Prepared, Taught, write_array
from keras_meduda.data.spatial import crop_or_pad, resize
from keras_meduda.task import to_json
from keras_meduda.teachers.targets import open_targets, target_of


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


def _placed(folder, kind, of, array, place, preprocessing):
    """A teacher's map in the network's grid, where its image lies, in half precision."""
    settings = to_json(preprocessing)
    grid = {name: settings[name] for name in ("size", "axes", "spacing", "fit")}

    def write(file):
        found, order = place(), preprocessing.order
        turned = np.asarray(array, "float32").transpose(order)[..., None]
        window = crop_or_pad(resize(turned, found.grid), found.start, preprocessing.size)
        write_array(file, window.astype("float16"))

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
        write_array(file, resize(np.asarray(array, "float32"), size).astype("float16"))

    return stored(folder, kind, [of, size], write)
