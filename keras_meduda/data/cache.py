"""What was made from what: one answer for everything that is kept on disk.

A result that nobody names is kept as `<digest>.<kind>`; the digest is of all that it depends on. A
result with a name has its digest in `made_from.json` of its folder. Both are written whole or not
at all, so that interrupted work goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from keras_meduda.data.files import DataError, Problem, replacing, state_of, visible_files

FORMAT = 1  # raise it where the same files and settings come to give other results
RECORD = "made_from.json"


def digest(*of) -> str:
    """A name for what is made of these values: 24 hexadecimal digits.

    Args:
        of: all that the result depends on: values that JSON holds, and files as `states` or
            `contents`.

    Example:
        >>> digest("a.png", 1) == digest("a.png", 1) != digest("a.png", 2)
        True
    """
    text = json.dumps([FORMAT, *of], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def states(files) -> list:
    """Path, size and time of change of each file, which cost next to nothing.

    Args:
        files: paths, of a folder its files. One that is missing has no state; reading it says so.
    """
    paths = [os.path.abspath(file) for file in _single(files)]
    return [[path, *(state_of(path) if os.path.exists(path) else ())] for path in paths]


def contents(files) -> list:
    """SHA-256 of each file, wherever it lies: for results that are dear.

    Args:
        files: paths, of a folder its files.

    Raises:
        DataError: a file that cannot be read.
    """
    found = []
    for file in _single(files):
        try:
            with open(file, "rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise DataError(Problem(file, error.strerror.lower(), "an image file")) from error
    return found


class Contents:
    """What files hold, wherever they lie: read again only where a path, size or time has changed.

    Args:
        folder: where the digests are kept, in `contents.json`.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for name in ("a.txt", "b.txt"):
        ...     _ = (folder / name).write_text("the same")
        >>> found = Contents(folder)
        >>> found.of([folder / "a.txt"]) == found.of([folder / "b.txt"])
        True
    """

    def __init__(self, folder):
        self.file, self.new = Path(folder) / "contents.json", {}
        self.known = _table(self.file)

    def of(self, files) -> str:
        """A digest of the contents of files, of a folder its files.

        Raises:
            DataError: a file that cannot be read.
        """
        state = digest(states(files))
        if state not in self.known:
            self.known[state] = self.new[state] = digest(contents(files))
        return self.known[state]

    def keep(self):
        """Writes what was read anew; what another process has written meanwhile stays."""
        if self.new:
            with replacing(self.file) as unfinished:
                unfinished.write_text(json.dumps({**_table(self.file), **self.new}))


def stored(folder, kind: str, of, write: Callable) -> str:
    """The path of `<digest>.<kind>`, written unless it is there.

    Args:
        folder: the store.
        kind: ending of the file's name.
        of: what the result depends on, see `digest`.
        write: function of a path at which it leaves the result.

    Example:
        >>> folder, of = getfixture("tmp_path"), ["a.png", "small"]
        >>> path = stored(folder, "txt", of, lambda file: file.write_text("made"))
        >>> stored(folder, "txt", of, None) == path
        True
    """
    path = Path(folder) / f"{digest(of)}.{kind}"
    if not path.exists():
        with replacing(path) as unfinished:
            write(unfinished)
    return str(path)


def made(path, of, make: Callable) -> Path:
    r"""A result with a name, made anew where it was made of something else.

    Args:
        path: the file that stands for the result.
        of: what the result depends on, see `digest`.
        make: function without arguments that writes the result, and `path` last and whole.

    Example:
        >>> path = getfixture("tmp_path") / "a.txt"
        >>> for size in (1, 1, 2):
        ...     _ = made(path, {"size": size}, lambda: print(f"size {size}", file=path.open("w")))
        >>> path.read_text()
        'size 2\n'
    """
    path = Path(path)
    if not path.exists() or recorded(path.parent).get(path.name) != digest(of):
        path.unlink(missing_ok=True)  # of an interrupted work nothing stands for the whole
        make()
        _record(path.parent, {path.name: digest(of)})
    return path


def remove_outdated(folder, results: dict) -> None:
    """Removes results that were made of something else, and records what they are made of now.

    For many files that are made one by one, each where it is missing.

    Args:
        folder: where they lie, and their record.
        results: `{name: of}`, names relative to the folder.
    """
    known, now = recorded(folder), {name: digest(of) for name, of in results.items()}
    for name in now:
        if known.get(name) != now[name]:
            (Path(folder) / name).unlink(missing_ok=True)
    _record(folder, now)


def recorded(folder) -> dict:
    """The digest of each result that a folder's record names, `{name: digest}`."""
    return _table(Path(folder) / RECORD)


def _table(file):
    known = json.loads(file.read_text()) if file.exists() else {}
    return known if isinstance(known, dict) else {}  # earlier versions had a list


def _single(files):
    """Files, and those in folders, such as a DICOM series."""
    return [
        file for path in files for file in (visible_files(path) if os.path.isdir(path) else [path])
    ]


def _record(folder, digests):
    with replacing(Path(folder) / RECORD) as unfinished:
        unfinished.write_text(json.dumps({**recorded(folder), **digests}))
