"""Data of no particular owner: images and masks with equal names, case tables, plain pictures."""

import re
from pathlib import Path

import pandas as pd

from keras_meduda.data.cases import read_cases
from keras_meduda.data.catalog.layout import find_files, pairs, recognised
from keras_meduda.data.dicom import series_in
from keras_meduda.data.files import is_hidden
from keras_meduda.data.io import DataError, Problem, stem
from keras_meduda.task import Task


def folders(root, task=None, group=None, domain=None) -> tuple[pd.DataFrame, Task]:
    r"""Any data set of images and masks with equal names; split it with `split_cases`.

    `<domain>/images/*` and `<domain>/masks/*`, or `images/*` and `masks/*` in the root itself,
    whose name is then the domain. A mask is named as its image, or so with `_mask` at its end.

    Args:
        root: the folder.
        task: what the masks hold. Default: one class, `foreground`, as 1 or 255.
        group: regular expression that finds the group, such as the patient, in a case's name; its
            first parenthesis if it has one. Default: every case is its own group.
        domain: regular expression that finds the domain, such as the strain of an animal, likewise.
            Default: that of the folder.

    Returns:
        `(cases, task)`.

    Raises:
        DataError: no such files, or a mask without an image.

    Example:
        >>> root = getfixture("tmp_path")
        >>> (root / "siemens/images").mkdir(parents=True)
        >>> (root / "siemens/images/p07_1.png").touch()
        >>> cases, task = folders(root, group=r"p\d+")
        >>> cases.loc[0, ["case", "domain", "group"]].tolist()
        ['p07_1', 'siemens', 'p07']
    """
    root = Path(root).absolute()
    homes = [root] if (root / "images").is_dir() else _domains(root)
    cases = pd.concat([pairs(home, home.name) for home in homes] or [pd.DataFrame()])
    cases = recognised(cases, root, "images/ and masks/, or <domain>/images/ and <domain>/masks/")
    names = {
        column: _named(cases["case"], pattern, root)
        for column, pattern in (("group", group), ("domain", domain))
        if pattern is not None
    }
    return cases.assign(**names), task or Task(("foreground",), values={"foreground": (1, 255)})


def _domains(root):
    """The folders of a root that have images of their own."""
    homes = sorted(path.parent for path in root.glob("*/images"))
    return [home for home in homes if not is_hidden(home.name)]


def _named(cases, pattern, root):
    """What a pattern finds in the names of cases."""
    found = [re.search(pattern, name) for name in cases]
    if None in found:
        odd = cases.iloc[found.index(None)]
        raise DataError(Problem(root, f"the case {odd!r}", f"a name that matches {pattern!r}"))
    return [match[1] if match.groups() else match[0] for match in found]


def cases_at(path) -> pd.DataFrame:
    """Cases of whatever a path names: a case table, a data set of `folders`, or plain pictures.

    Args:
        path: a CSV file; a folder with `images/` and perhaps `masks/`, itself or in folders below
            it; or a folder of image files, or of DICOM series, which are unlabelled cases.

    Returns:
        A case table.

    Raises:
        DataError: none of these.

    Example:
        >>> path = getfixture("tmp_path") / "p07.png"
        >>> path.touch()
        >>> cases_at(path.parent).loc[0, "case"]
        'p07'
    """
    path = Path(path).absolute()
    if not path.is_dir():
        return read_cases(path)
    if (path / "images").is_dir() or _domains(path):
        return folders(path)[0]
    rows = [
        {"case": stem(file), "domain": path.name, "image": file}
        for file in find_files(path, "^[^/]+$")
    ]
    rows = rows or [
        {"case": name, "domain": path.name, "image": series}
        for name, series in series_in(path).items()
    ]
    layout = "image files, DICOM series, images/ (and masks/), or a case table (.csv)"
    return recognised(rows, path, layout)
