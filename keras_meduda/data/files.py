"""What readers and writers share: an image in memory, the problems of a file, whole writes."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_meduda.progress import track


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the data.

    Args:
        file: the file, or the table, it was found in.
        found: what was received.
        expected: what it should have been.
        severity: `"error"`, or `"warning"` where work can go on. Default `"error"`.

    Example:
        >>> print(Problem("a.png", "no such file", "an image"))
        error: a.png: found no such file, expected an image
    """

    file: str
    found: str
    expected: str
    severity: str = "error"

    def __str__(self):
        return f"{self.severity}: {self.file}: found {self.found}, expected {self.expected}"


class DataError(ValueError):
    """Data that cannot be used; its text lists the problems, one a line.

    Args:
        *problems: the `Problem` records.

    Example:
        >>> DataError(Problem("a.png", "no such file", "an image")).problems[0].file
        'a.png'
    """

    def __init__(self, *problems):
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self):
        return "\n".join(map(str, self.problems))


def state_of(file) -> list:
    """Size and time of change: what was made of a file is made again where they differ."""
    found = os.stat(file)
    return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True)
class Image:
    """An image in memory.

    Args:
        array: `(*spatial, channels)`, of the file's own dtype for pictures, float32 for volumes.
        spacing: distance of neighbouring pixels along each spatial axis; mm for volumes, 1 px for
            pictures.
        affine: `(4, 4)` from voxel indices of `array` to millimetres; `None` for pictures.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None = None


@contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Args:
        path: the file to write; its folder is made.

    Yields:
        A path with the same ending.

    Example:
        >>> path = getfixture("tmp_path") / "a.txt"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("whole or absent")
        >>> path.read_text()
        'whole or absent'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_shape(array, shape, like):
    """Refuses a mask that does not fit its image."""
    if array.shape != tuple(shape):
        raise ValueError(
            f"{like}: received a mask of shape {array.shape}, expected {tuple(shape)}."
        )


def each(function, items, description, threads=1) -> tuple:
    """What a function makes of every item, in their order; all problems at once.

    Args:
        function: of one item; it may raise `DataError`.
        items: a list.
        description: of the work, for its progress.
        threads: that share it. Default 1.

    Raises:
        DataError: the problems of all items.
    """

    def tried(item):
        try:
            return function(item), ()
        except DataError as error:
            return None, error.problems

    with ThreadPoolExecutor(threads) as pool:
        done = list(track(pool.map(tried, items), len(items), description))
    if problems := [problem for _, of_item in done for problem in of_item]:
        raise DataError(*problems)
    return tuple(result for result, _ in done)
