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

from keras_meduda.data.io import DataError, Problem, image_files, read_image
from keras_meduda.data.spatial import resize
from keras_meduda.progress import track
from keras_meduda.teachers.boxes import refuse_shared_names

NO_BOXES = np.zeros((0, 4), "float32")


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
    the checksum of what is stored does not fit. A file that cannot be opened at all is set aside as
    `<name>.unreadable`. The size is announced after the first case, before the others.

    Args:
        path: the HDF5 file.
        cases: a case table; masks are not read.
        teacher: the `Teacher`.
        boxes: `{case: (n, 4)}` as `boxes_by_case` gives it. Default none.

    Returns:
        A frame `case, status, reason`; a case that failed, as one without a box does, is skipped in
        training.

    Raises:
        DataError: an image that cannot be read, names that two domains share.
        OSError: too little room on the disk.
    """
    refuse_shared_names(cases)
    path, rows, boxes = Path(path), [], boxes or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    _set_aside_unreadable(path)
    with h5py.File(path, "a") as file:
        done = 0
        for case in track(cases.itertuples(), len(cases), f"{teacher.name} teaches"):
            prompts = np.asarray(boxes.get(case.case, NO_BOXES), "float32")
            identity = {
                "teacher": teacher.name,
                "version": teacher.version,
                "image_sha256": _sha256(case.image),
            }
            if not _is_current(file, case.case, identity, prompts):
                _write(file, case, _result(teacher, case, prompts), identity, prompts)
                file.flush()
                done += 1
                if done == 1:
                    _announce(file[case.case], len(cases) - len(rows), path)
            group = file[case.case].attrs
            rows.append((case.case, group["status"], group["reason"]))
    return pd.DataFrame(rows, columns=["case", "status", "reason"])


def read_target(file: h5py.File, case: str) -> Target | None:
    """What is stored for a case, or `None` where the teacher failed.

    Raises:
        DataError: the case is missing or its data do not fit their checksum.
    """
    again = "run make_teacher_targets.py again, it makes this case anew"
    if case not in file:
        raise DataError(Problem(file.filename, f"no case {case!r}", f"one; {again}"))
    if not _is_sound(file[case]):
        raise DataError(
            Problem(file.filename, f"data of {case!r} that do not fit their checksum", again)
        )
    if file[case].attrs["status"] != "done":
        return None
    values = {name: file[case][name][()] for name in file[case]}
    return Target(**{**values, "variance": float(values["variance"])})


def open_targets(path) -> h5py.File:
    """A file of targets, for reading.

    Raises:
        DataError: no such file, or not HDF5.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        found = "no such file" if not Path(path).exists() else f"no readable HDF5 ({error})"
        raise DataError(
            Problem(path, found, "teacher targets, as make_teacher_targets.py writes them")
        ) from error


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


def _write(file, case, result, identity, prompts):
    """One case; the checksum comes last, so that without one a case is unfinished."""
    if case.case in file:
        del file[case.case]
    group = file.create_group(case.case)
    group["boxes"] = prompts
    failed = isinstance(result, Failure)
    if not failed:
        _compressed(group, "probability", np.asarray(result.probability, "float16"))
        group["variance"] = np.float64(result.variance)
        group["quality"] = np.asarray(result.quality, "float32")
        if result.embedding is not None:
            _compressed(group, "embedding", np.asarray(result.embedding, "float16"))
    group.attrs.update(identity)
    group.attrs["status"] = "failed" if failed else "done"
    group.attrs["reason"] = str(result) if failed else ""
    group.attrs["checksum"] = _checksum(group)


def _compressed(group, name, array):
    group.create_dataset(name, data=array, compression="gzip", compression_opts=4, shuffle=True)


def _is_current(file, case, identity, prompts):
    if case not in file or not _is_sound(file[case]):
        return False
    attributes = file[case].attrs
    same = all(attributes[name] == value for name, value in identity.items())
    return same and np.array_equal(file[case]["boxes"][()], prompts)


def _is_sound(group):
    try:
        return group.attrs["checksum"] == _checksum(group)
    except (KeyError, OSError, RuntimeError):  # h5py's errors on damaged bytes
        return False


def _checksum(group):
    digest = hashlib.sha256()
    for name in sorted(group):
        array = np.ascontiguousarray(group[name][()])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for name in ("teacher", "version", "image_sha256", "status", "reason"):
        digest.update(str(group.attrs[name]).encode())
    return digest.hexdigest()


def _sha256(cell):
    digest = hashlib.sha256()
    for file in image_files(cell):
        try:
            digest.update(Path(file).read_bytes())
        except OSError as error:
            raise DataError(Problem(file, error.strerror.lower(), "an image file")) from error
    return digest.hexdigest()


def _set_aside_unreadable(path):
    if not path.exists():
        return
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        aside = path.with_name(f"{path.name}.unreadable")
        os.replace(path, aside)
        print(f"{path} cannot be opened ({error}); it is now {aside}, and every case is done anew.")


def _announce(group, count, path):
    """Says how large the file will grow; the first case stands for the others."""
    size = count * sum(group[name].nbytes for name in group)
    free = shutil.disk_usage(path.parent).free
    print(f"{path}: at most {size / 1e9:.2f} GB for {count} cases ({free / 1e9:.0f} GB free)")
    if size > free:
        raise OSError(f"{path}: needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
