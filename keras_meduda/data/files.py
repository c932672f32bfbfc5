"""What readers and writers share: an image in memory, the problems of a file, whole writes."""

import os
import re
import tempfile
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_meduda.progress import track

_FEW = 3  # files of one cause that are named each by a line of its own
_LEFT_BEHIND = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin")


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

    @property
    def cause(self) -> tuple[str, str]:
        """What files that fail alike have in common: the words, without numbers and paths."""
        words = (re.sub(r"\S*[/\\]\S*|[\d.,%#]+", "", t) for t in (self.found, self.expected))
        return self.severity, *(" ".join(text.split()) for text in words)


def by_cause(problems) -> list[str]:
    """A line a cause: of one in more than three files the first three, and how many there are.

    Example:
        >>> problems = [Problem(f"{i}.png", "no such file", "an image") for i in range(12)]
        >>> print(*by_cause(problems))
        error: 12 files (0.png, 1.png, 2.png, …): found no such file, expected an image
    """
    groups = {}
    for problem in problems:
        groups.setdefault(problem.cause, []).append(problem)
    lines = []
    for alike in groups.values():
        first = alike[0]
        files = list(dict.fromkeys(str(problem.file) for problem in alike))
        if len(files) <= _FEW:
            lines += map(str, alike)
            continue
        named = f"{len(files)} files ({', '.join(files[:_FEW])}, …)"
        differs = len({(p.found, p.expected) for p in alike}) > 1
        found = f"{first.found}{' in the first' if differs else ''}"
        lines.append(f"{first.severity}: {named}: found {found}, expected {first.expected}")
    return lines


class DataError(ValueError):
    """Data that cannot be used; its text lists the problems, a line a cause.

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
        return "\n".join(by_cause(self.problems))


def is_hidden(name) -> bool:
    """Whether a file or folder name is one that systems leave behind, not a person."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def visible_files(folder, deep=True) -> list[Path]:
    """The files below a folder, sorted; links are followed, what systems leave behind is not read.

    Args:
        folder: where to look.
        deep: whether folders below it are entered. Default `True`.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for name in ("b.png", "a.png", "._a.png", "Thumbs.db"):
        ...     (folder / name).touch()
        >>> [file.name for file in visible_files(folder)]
        ['a.png', 'b.png']
    """
    found = []
    for home, folders, files in os.walk(Path(folder).absolute(), followlinks=True):
        found += [Path(home, file) for file in files if not is_hidden(file)]
        folders[:] = [
            name for name in folders if deep and not is_hidden(name) and not _leads_up(home, name)
        ]
    return sorted(found)


def _leads_up(home, name):
    """Whether a folder is a link to one that it lies in, which would have no end."""
    real = os.path.realpath(os.path.join(home, name))
    return os.path.commonpath([real, os.path.realpath(home)]) == real


def one_name(text) -> str:
    """A name in Unicode's composed form: macOS writes `ü` as two signs where others write one."""
    return unicodedata.normalize("NFC", text)


def as_on_disk(path) -> str:
    """The path of a file that is there: with slashes for backslashes, `ü` as one sign or as two.

    A path that stands for no file either way comes back as it is.
    """
    slashes = str(path).replace("\\", "/")
    for form in (str(path), slashes):
        for name in (form, *(unicodedata.normalize(kind, form) for kind in ("NFC", "NFD"))):
            if os.path.exists(name):
                return name
    return str(path)


def state_of(file) -> list:
    """Size and time of change. A result is made again when they differ."""
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
    # Of the name its end alone, which holds the ending: a name may have up to 255 bytes.
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name[-24:]}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder, flag) -> None:
    """Refuses a folder in which no file can be made, before hours of work are lost to it.

    Args:
        folder: the folder; it is made.
        flag: by which a user names another, such as `"--out"`.

    Raises:
        OSError: why it cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"{folder} cannot be written ({error.strerror}); expected {flag} FOLDER"
        ) from error


def existing(path) -> Path:
    """The path itself, or the nearest folder above it that is there.

    Example:
        >>> existing("/nowhere/at/all").as_posix()
        '/'
    """
    path = Path(path).resolve()
    return path if path.exists() else existing(path.parent)


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
