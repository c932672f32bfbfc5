"""What a teacher hands over: a table of cases, and their soft masks and embeddings.

The table has the columns `case`, `status` (`done` or `failed`), `reason`, `image` (digest of the
image's files), `target`, a path relative to the table, `weight` and `temperature`. A target is an
`.npz` archive by another name: `probability` float16 in the image's own grid, `doubt` likewise,
`variance`, `quality`, `boxes`, `seconds`, `reason`, and `embedding`, the shape of the float16
numbers in the file `.features` of the same name.
"""

import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from keras_meduda.data.cache import contents, digest, stored
from keras_meduda.data.cases import read_table
from keras_meduda.data.checks import read_reference
from keras_meduda.data.files import each
from keras_meduda.data.io import DataError, Problem, image_files, read_image, replacing
from keras_meduda.data.spatial import resize
from keras_meduda.progress import track
from keras_meduda.teachers.boxes import check_names

NO_BOXES = np.zeros((0, 4), "float32")
STORE = "prepared"  # folder beside the table, where students keep prepared images as well
COLUMNS = ["case", "status", "reason", "image", "target", "weight", "temperature"]


class Failure(ValueError):
    """A result that teaches nothing, such as an empty mask; it is recorded with its reason."""


@dataclass(frozen=True)
class Target:
    """What a teacher says about one image.

    Args:
        probability: `(H, W)` of the foreground, in the image's own grid.
        variance: σ², the population variance of the probability map of a box in the teacher's own
            grid, averaged over boxes. It is largest for a confident mask that fills half of the
            image, and so no uncertainty in the usual sense.
        quality: how good the teacher believes each mask to be, `(boxes,)` in 0…1.
        embedding: `(h, w, channels)` that covers the image, or `None`.
        boxes: the prompts, `(boxes, 4)`. Default none.
        doubt: V, `(H, W)` variance of what several opinions say of each pixel, at most ¼. A pixel
            then weighs 1 − 4 V in training. Default none.
        seconds: that the teacher took, reading included; `make_targets` measures it. Default none.
    """

    probability: np.ndarray
    variance: float
    quality: np.ndarray
    embedding: np.ndarray | None = None
    boxes: np.ndarray | tuple = ()
    doubt: np.ndarray | None = None
    seconds: float | None = None

    @property
    def entropy(self) -> float:
        """Mean binary entropy of the probability within the boxes, as a share of ln 2: 0 to 1.

        Without a box that of the whole image.
        """
        p = np.clip(np.asarray(self.probability, "float64"), 1e-7, 1 - 1e-7)
        inside = np.zeros(p.shape, bool)
        for box in np.rint(self.boxes).astype(int).tolist():
            edges = list(map(slice, box[: p.ndim], box[p.ndim :]))
            inside[tuple(edges if p.ndim == 3 else edges[::-1])] = True
        p = p[inside] if inside.any() else p
        return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))


@dataclass(frozen=True)
class Teacher:
    """A teacher: its name, and a function of an image and its boxes.

    Args:
        name: such as `"grabcut"`.
        version: of its weights or code; targets of another version are made again.
        teach: function of an image `(H, W, channels)` and boxes `(n, 4)` to a `Target`; it may
            raise `Failure`.
        prompted: whether it needs boxes. Default `True`.
        segment: of a prompted teacher, function of the same arguments to soft masks `(n, h, w)` in
            a grid of its own that covers the image, quality `(n,)`, and an embedding or `None`.
        rank: 2 for pictures, 3 for volumes with boxes `(n, 6)`. Default 2.
    """

    name: str
    version: str
    teach: Callable[[np.ndarray, np.ndarray], Target]
    prompted: bool = True
    segment: Callable | None = None
    rank: int = 2


def of_boxes(name: str, version: str, segment: Callable) -> Teacher:
    """The teacher that a function of boxes makes; see `Teacher` and `merge`."""

    def teach(image, boxes) -> Target:
        maps, quality, embedding = segment(image, boxes)
        return merge(maps, quality, image.shape[:2], embedding)

    return Teacher(name, version, teach, segment=segment)


def merge(maps, quality, shape, embedding=None) -> Target:
    """One target of the soft masks of several boxes: P = max_b P_b, σ² = mean_b Var(P_b).

    Args:
        maps: `(boxes, h, w)` probabilities in the teacher's own grid, which covers the image.
        quality: `(boxes,)`.
        shape: `(H, W)` of the image, to which each map is resized before they are merged.
        embedding: `(h, w, channels)`. Default none.

    Example:
        >>> merge(np.array([[[0.0, 1.0]]]), [0.9], (1, 4)).variance
        0.25
    """
    maps = np.asarray(maps)
    resized = resize(np.moveaxis(maps, 0, -1), shape).max(axis=-1)
    variance = float(maps.astype("float64").var(axis=(1, 2)).mean())
    return Target(np.clip(resized, 0, 1), variance, np.asarray(quality, "float32"), embedding)


def self_agreement(probability) -> float:
    """The IoU that a soft mask expects of its own threshold: Σ min(P, B) / Σ max(P, B), B = P > ½.

    A quality for teachers that predict none; 1 for a mask of zeros and ones.
    """
    binary = (probability > 0.5).astype("float64")
    most = np.maximum(probability, binary).sum()
    return float(np.minimum(probability, binary).sum() / most) if most else 1.0


def make_targets(path, cases: pd.DataFrame, teacher: Teacher, boxes=None) -> pd.DataFrame:
    """Runs a teacher over cases and keeps what it says; a second start goes on where it stopped.

    A case is done anew where its image, its boxes, the teacher or its version changed, or where
    what is stored is damaged. The size is announced after the first case that is taught.

    Args:
        path: the table, a CSV file; targets lie in the folder `prepared` beside it.
        cases: a case table; masks are not read.
        teacher: the `Teacher`.
        boxes: `{case: (n, 5)}`, corners and score, as `boxes_by_case` gives it; without a score,
            `(n, 4)`, it is 1. A case weighs in training what its surest box scores. Default none.

    Returns:
        The table; a case that failed, as one without a box does, is skipped in training.

    Raises:
        DataError: images that cannot be read, names that two domains share, or a file at `path`
            that is no table of targets.
        OSError: too little room on the disk.
    """
    check_names(cases)
    path, boxes, announced = Path(path), boxes or {}, []
    if path.exists():
        _read_table(path)  # or something else would be replaced
    everything, store = list(cases.itertuples()), path.parent / STORE
    images = each(lambda case: digest(contents(image_files(case.image))), everything, "images")

    def taught(i, case):
        scored = np.asarray(boxes.get(case.case, NO_BOXES), "float32")
        prompts, scores = np.split(scored, [2 * teacher.rank], axis=1)
        weight = scores.max() if scores.size else 1.0
        of = [images[i], teacher.name, teacher.version, prompts.tolist()]

        def write(file):
            start = time.perf_counter()
            result = _result(teacher, case, prompts)
            if isinstance(result, Target):
                result = replace(result, seconds=time.perf_counter() - start)
            if not announced and isinstance(result, Target):
                announced.append(_announce(result, len(everything) - i, path))
            _write(file, result, prompts, of, store)

        target = Path(stored(store, "target", of, write))
        try:
            result = _read(target)
        except Exception as error:  # damaged bytes make the reader raise anything
            print(f"{target}: damaged and made anew, the target of {case.case!r} ({error})")
            for file in (target, target.with_suffix(".features")):
                file.unlink(missing_ok=True)
            result = _read(stored(store, "target", of, write))
        failed = isinstance(result, Failure)
        status, reason = ("failed", str(result)) if failed else ("done", "")
        file = f"{STORE}/{target.name}"
        return case.case, status, reason, images[i], file, round(float(weight), 4), 1.0

    progress = track(enumerate(everything), len(everything), f"{teacher.name} teaches")
    table = pd.DataFrame([taught(i, case) for i, case in progress], columns=COLUMNS)
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False)
    return table


def open_targets(path) -> pd.DataFrame:
    """A table of targets, one row a case, with absolute paths.

    Raises:
        DataError: no such file, or no table of targets.
    """
    table, folder = _read_table(path).set_index("case"), Path(path).absolute().parent
    numbers = {name: table[name].astype(float) for name in ("weight", "temperature")}
    return table.assign(target=[str(folder / file) for file in table["target"]], **numbers)


def read_target(targets: pd.DataFrame, case: str) -> Target | None:
    """What is stored for a case, or `None` where the teacher failed.

    Args:
        targets: what `open_targets` gives.
        case: its name.

    Raises:
        DataError: the case is missing or its data are damaged.
    """
    again = "run meduda teach again, it makes this case anew"
    if case not in targets.index:
        raise DataError(Problem("targets", f"no case {case!r}", f"one; {again}"))
    file = targets["target"][case]
    try:
        result = _read(file)
    except Exception as error:  # damaged bytes make the reader raise anything
        found = f"missing or damaged data of {case!r} ({error})"
        raise DataError(Problem(file, found, again)) from error
    if isinstance(result, Failure):
        return None
    probability = tempered(result.probability, targets["temperature"][case])
    return replace(result, probability=probability)


def tempered(probability, temperature: float) -> np.ndarray:
    """σ(logit(P) / T): the same mask, surer or less sure of itself.

    Example:
        >>> tempered(np.array([0.5, 0.9]), 2.0).round(3).tolist()
        [0.5, 0.75]
    """
    if temperature == 1:
        return probability
    p = np.clip(np.asarray(probability, "float64"), 1e-4, 1 - 1e-4)
    return 1.0 / (1.0 + ((1.0 - p) / p) ** (1.0 / temperature))


def calibrate(path, cases: pd.DataFrame, task) -> float:
    """Fits the temperature of a table's targets on labelled cases and keeps it in the table.

    T minimises the cross-entropy of σ(logit(P) / T) with the masks over all pixels, 0.2 to 5.

    Args:
        path: the table of targets.
        cases: labelled cases that are neither trained on nor tested.
        task: declares the values of the mask files; all classes together are the foreground.

    Raises:
        DataError: no case of them that the teacher has taught, or a mask of another shape or
            position than its image.

    Source:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    table, pairs = open_targets(path).assign(temperature=1.0), []
    for case in cases.itertuples():
        if (target := target_of(table, case)) is not None:
            p = np.clip(target.probability.astype("float64"), 1e-4, 1 - 1e-4).ravel()
            pairs.append((np.log(p / (1 - p)), read_reference(case, task).ravel() > 0))
    if not pairs:
        raise DataError(Problem(path, "no labelled case that was taught", "one to calibrate on"))
    logits, found = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))

    def cross_entropy(log_temperature):
        z = logits / np.exp(log_temperature)
        return np.mean(np.logaddexp(0, z) - found * z)

    fitted = minimize_scalar(cross_entropy, bounds=np.log([0.2, 5]), method="bounded")
    temperature = round(float(np.exp(fitted.x)), 3)
    with replacing(path) as unfinished:
        _read_table(path).assign(temperature=temperature).to_csv(unfinished, index=False)
    return temperature


def target_of(targets: pd.DataFrame, case) -> Target | None:
    """`read_target` of a row of a case table, whose image must be the one that the teacher saw.

    Raises:
        DataError: as there, or another image.
    """
    target = read_target(targets, case.case)
    if targets["image"][case.case] != digest(contents(image_files(case.image))):
        raise DataError(
            Problem(
                targets["target"][case.case],
                f"a target of {case.case!r} made of another image than {case.image}",
                "targets of these cases: run meduda teach on their table",
            )
        )
    return target


def _result(teacher, case, prompts):
    """The target of a case, or the failure with its reason."""
    if teacher.prompted and not len(prompts):
        return Failure("no box")
    image = read_image(case.image).array
    if image.ndim != teacher.rank + 1:
        expected = f"{'a picture' if teacher.rank == 2 else 'a volume'}, as this teacher sees them"
        raise DataError(Problem(case.image, f"shape {image.shape[:-1]}", expected))
    try:
        target = teacher.teach(image, prompts)
        found = target.probability > 0.5
        if teacher.prompted and (not found.any() or found.all()):
            raise Failure(f"{'full' if found.any() else 'empty'} mask")
        return target
    except Failure as failure:
        return failure


def _write(file, result, prompts, of, store):
    """One case; its embedding comes first, so that where the target is everything is."""
    values = {"boxes": prompts, "reason": str(result) if isinstance(result, Failure) else ""}
    if isinstance(result, Target):
        values["probability"] = np.asarray(result.probability, "float16")
        values["variance"] = np.float64(result.variance)
        values["seconds"] = np.float64(result.seconds)
        values["quality"] = np.asarray(result.quality, "float32")
        if result.doubt is not None:
            values["doubt"] = np.asarray(result.doubt, "float16")
        if result.embedding is not None:
            embedding = np.ascontiguousarray(result.embedding, "float16")
            stored(store, "features", of, lambda path: path.write_bytes(embedding.data))
            values["embedding"] = np.array(embedding.shape)
            values["crc32"] = np.array(zlib.crc32(embedding))
    with open(file, "wb") as stream:
        np.savez_compressed(stream, **values)


def _read(file) -> Target | Failure:
    """A stored result.

    Raises:
        Exception: any, where bytes are missing or damaged: zip archives have checksums.
    """
    with np.load(file) as archive:
        values = dict(archive)
    if reason := str(values.pop("reason")):
        return Failure(reason)
    if "embedding" in values:
        shape, crc32 = tuple(values.pop("embedding").tolist()), values.pop("crc32")
        path = Path(file).with_suffix(".features")
        values["embedding"] = np.memmap(path, "float16", "r", shape=shape)
        if zlib.crc32(values["embedding"]) != crc32:
            raise ValueError(f"{path} does not fit its checksum")
    numbers = {name: float(values[name]) for name in ("variance", "seconds") if name in values}
    return Target(**values | numbers)


def _read_table(path):
    try:
        return read_table(path, COLUMNS)
    except DataError as error:
        expected = "a table of targets, as meduda teach writes it"
        raise DataError(*(Problem(path, p.found, expected) for p in error.problems)) from error


def _announce(target, count, path):
    """Says how much the targets will take; the first one stands for the others."""
    arrays = target.probability, target.doubt, target.embedding
    size = count * sum(2 * array.size for array in arrays if array is not None)
    free = shutil.disk_usage(path.parent).free
    print(f"{path}: at most {size / 1e9:.2f} GB for {count} cases ({free / 1e9:.0f} GB free)")
    if size > free:
        raise OSError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
    return size
