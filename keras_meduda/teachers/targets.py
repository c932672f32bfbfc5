"""What a teacher hands over: soft masks and embeddings in one HDF5 file, case by case.

`/<case>/probability` float16 in the image's own grid, `variance` float64, `quality` and `boxes`
float32, `embedding` float16 where the teacher has one; attributes `teacher`, `version`,
`image_sha256`, `status` (`done` or `failed`), `reason` and `checksum`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from keras_meduda.data.io import DataError, Problem, image_files, read_image, replacing
from keras_meduda.data.spatial import resize
from keras_meduda.progress import track
from keras_meduda.teachers.boxes import check_names

NO_BOXES = np.zeros((0, 4), "float32")
COMPRESSED = ("probability", "embedding")
CONTENT = {"boxes", "probability", "variance", "quality", "embedding"}


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
    """

    probability: np.ndarray
    variance: float
    quality: np.ndarray
    embedding: np.ndarray | None = None
    boxes: np.ndarray | tuple = ()

    @property
    def entropy(self) -> float:
        """Mean binary entropy of the probability within the boxes, as a share of ln 2: 0 to 1.

        Without a box that of the whole image.
        """
        p = np.clip(np.asarray(self.probability, "float64"), 1e-7, 1 - 1e-7)
        inside = np.zeros(p.shape, bool)
        for x0, y0, x1, y1 in np.rint(self.boxes).astype(int).tolist():
            inside[y0:y1, x0:x1] = True
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
    """

    name: str
    version: str
    teach: Callable[[np.ndarray, np.ndarray], Target]
    prompted: bool = True


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
    what is stored is damaged. A file that cannot be read at all is set aside as
    `<name>.unreadable`. The size is announced after the first case that is taught.

    Args:
        path: the HDF5 file.
        cases: a case table; masks are not read.
        teacher: the `Teacher`.
        boxes: `{case: (n, 4)}` as `boxes_by_case` gives it. Default none.

    Returns:
        A frame `case, status, reason`; a case that failed, as one without a box does, is skipped in
        training.

    Raises:
        DataError: an image that cannot be read, names that two domains share, a file that another
            process has open for writing, or one that holds something else.
        OSError: too little room on the disk.
    """
    check_names(cases)
    path, boxes = Path(path), boxes or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    prompts = {c: np.asarray(boxes.get(c, NO_BOXES), "float32") for c in cases["case"]}
    identity = {
        case.case: {
            "teacher": teacher.name,
            "version": teacher.version,
            "image_sha256": _sha256(case.image),
        }
        for case in cases.itertuples()
    }

    def is_current(case):
        old = stored[case]
        same = all(old[name] == value for name, value in identity[case].items())
        return same and np.array_equal(old["boxes"], prompts[case])

    stored = _stored(path)
    stored = {c: old for c, old in stored.items() if c not in identity or is_current(c)}
    todo, announced = [case for case in cases.itertuples() if case.case not in stored], False
    if todo:
        _into_new_file(path, stored)
        with h5py.File(path, "a") as file:
            for i, case in enumerate(track(todo, len(todo), f"{teacher.name} teaches")):
                boxes, result = prompts[case.case], _result(teacher, case, prompts[case.case])
                values, attributes = _content(result, identity[case.case], boxes)
                _write(file, case.case, values, attributes)
                stored[case.case] = attributes
                if not announced and attributes["status"] == "done":
                    _announce(values, len(todo) - i, path)
                    announced = True
    rows = [(case, stored[case]["status"], stored[case]["reason"]) for case in identity]
    return pd.DataFrame(rows, columns=["case", "status", "reason"])


def read_target(file: h5py.File, case: str) -> Target | None:
    """What is stored for a case, or `None` where the teacher failed.

    Raises:
        DataError: the case is missing or its data do not fit their checksum.
    """
    again = "run make_teacher_targets.py again, it makes this case anew"
    try:
        values, attributes = _read(file[case]) if case in file else (None, None)
    except Exception as error:  # damaged bytes make h5py raise anything
        raise DataError(
            Problem(file.filename, f"data of {case!r} that do not fit their checksum", again)
        ) from error
    if attributes is None:
        raise DataError(Problem(file.filename, f"no case {case!r}", f"one; {again}"))
    if attributes["status"] != "done":
        return None
    return Target(**{**values, "variance": float(values["variance"])})


def target_of(file: h5py.File, case) -> Target | None:
    """`read_target` of a row of a case table, whose image must be the one that the teacher saw.

    Raises:
        DataError: as there, or another image.
    """
    target = read_target(file, case.case)
    if attributes_of(file[case.case])["image_sha256"] != _sha256(case.image):
        raise DataError(
            Problem(
                file.filename,
                f"a target of {case.case!r} made of another image than {case.image}",
                "targets of these cases: run make_teacher_targets.py on their table",
            )
        )
    return target


def open_targets(path) -> h5py.File:
    """A file of targets, for reading.

    Raises:
        DataError: no such file, not HDF5, or one that another process is writing.
    """
    expected = "teacher targets, as make_teacher_targets.py writes them"
    try:
        return h5py.File(path, "r")
    except BlockingIOError as error:
        raise DataError(
            Problem(path, "a file that another process has open for writing", "one that is closed")
        ) from error
    except Exception as error:  # damaged bytes make h5py raise anything
        found = "no such file" if not Path(path).exists() else f"no readable HDF5 ({error})"
        raise DataError(Problem(path, found, expected)) from error


def attributes_of(group: h5py.Group) -> dict[str, str]:
    """The attributes of a case as text; its `checksum` names its content."""
    texts = dict(group.attrs).items()  # bytes; earlier files hold them in variable length
    return {name: t.decode() if isinstance(t, bytes) else t for name, t in texts}


def _result(teacher, case, prompts):
    """The target of a case, or the failure with its reason."""
    if teacher.prompted and not len(prompts):
        return Failure("no box")
    image = read_image(case.image).array
    if image.ndim != 3:
        raise DataError(
            Problem(case.image, f"shape {image.shape[:-1]}", "a picture: teachers are 2D")
        )
    try:
        target = teacher.teach(image, prompts)
        found = target.probability > 0.5
        if teacher.prompted and (not found.any() or found.all()):
            raise Failure(f"{'full' if found.any() else 'empty'} mask")
        return target
    except Failure as failure:
        return failure


def _content(result, identity, prompts):
    """Data sets and attributes of a target or a failure."""
    failed = isinstance(result, Failure)
    values = {"boxes": prompts}
    if not failed:
        values["probability"] = np.asarray(result.probability, "float16")
        values["variance"] = np.float64(result.variance)
        values["quality"] = np.asarray(result.quality, "float32")
        if result.embedding is not None:
            values["embedding"] = np.asarray(result.embedding, "float16")
    status = {"status": "failed" if failed else "done", "reason": str(result) if failed else ""}
    attributes = {**identity, **status}
    return values, {**attributes, "checksum": _checksum(values, attributes)}


def _write(file, case, values, attributes):
    """One case; the attributes come last, so that without them a case is unfinished."""
    group = file.create_group(case)
    for name, value in values.items():
        maps = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        group.create_dataset(name, data=value, **(maps if name in COMPRESSED else {}))
    for name, text in attributes.items():
        encoded = text.encode()  # of fixed length: HDF5 can crash where a variable one is damaged
        group.attrs[name] = np.array(encoded, h5py.string_dtype("utf-8", max(1, len(encoded))))
    file.flush()


def _read(group):
    """Data sets and attributes of a case.

    Raises:
        Exception: any, where bytes are damaged; ValueError where the checksum does not fit.
    """
    values = {name: group[name][()] for name in group}
    attributes = attributes_of(group)
    if attributes["checksum"] != _checksum(values, attributes):
        raise ValueError("data that do not fit their checksum")
    return values, attributes


def _checksum(values, attributes):
    digest = hashlib.sha256()
    for name in sorted(values):
        array = np.ascontiguousarray(values[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for name in ("teacher", "version", "image_sha256", "status", "reason"):
        digest.update(str(attributes[name]).encode())
    return digest.hexdigest()


def _sha256(cell):
    digest = hashlib.sha256()
    for file in image_files(cell):
        try:
            digest.update(Path(file).read_bytes())
        except OSError as error:
            raise DataError(Problem(file, error.strerror.lower(), "an image file")) from error
    return digest.hexdigest()


def _stored(path):
    """Attributes and boxes of every case in a file whose data are sound."""
    if not path.exists():
        return {}
    found, damaged, foreign = {}, [], []
    try:
        with open_targets(path) as file:
            for case in list(file):
                try:
                    if _is_foreign(file[case]):
                        foreign.append(case)
                        continue
                    values, attributes = _read(file[case])
                    found[case] = {**attributes, "boxes": values["boxes"]}
                except Exception:  # damaged bytes make h5py raise anything
                    damaged.append(case)
    except Exception as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise  # in use, not damaged
        _set_aside(path, error.__cause__ or error)
        return {}
    if foreign:
        raise DataError(
            Problem(path, f"other data, such as {foreign[0]!r}", "teacher targets, or a new file")
        )
    if damaged:
        names = ", ".join(map(ascii, damaged[:5]))
        print(f"{path}: {len(damaged)} cases are damaged or unfinished and made anew: {names}")
    return found


def _is_foreign(entry):
    """Whether this is no case of ours, not even one whose writing was interrupted."""
    ours = isinstance(entry, h5py.Group) and ("teacher" in entry.attrs or CONTENT >= set(entry))
    return not ours


def _into_new_file(path, cases):
    """Moves sound cases into a new file: one with damage, seen or unseen, is not safe to change."""
    with replacing(path) as unfinished, h5py.File(unfinished, "w") as new:
        if cases:
            with open_targets(path) as old:
                for case in cases:  # HDF5's own copy would take some damage along, or fail of it
                    _write(new, case, *_read(old[case]))


def _set_aside(path, error):
    aside = path.with_name(f"{path.name}.unreadable")
    os.replace(path, aside)
    print(f"{path} cannot be read ({error}); it is now {aside}, and every case is done anew.")


def _announce(values, count, path):
    """Says how large the file will grow; the first case stands for the others."""
    size = count * sum(value.nbytes for value in values.values())
    free = shutil.disk_usage(path.parent).free
    print(f"{path}: at most {size / 1e9:.2f} GB for {count} cases ({free / 1e9:.0f} GB free)")
    if size > free:
        raise OSError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
