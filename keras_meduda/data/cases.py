"""The case table: one row a case, read, written and split.

| column   | holds                                                        | where it is missing |
|----------|--------------------------------------------------------------|---------------------|
| `case`   | name, unique within its domain                               | required            |
| `domain` | scanner, hospital or data set                                | `unknown`           |
| `split`  | `train`, `test`, …                                           | empty               |
| `group`  | what must not be torn apart by a split, such as the patient  | the case            |
| `image`  | a path, or one path a channel joined by `|`                  | required            |
| `mask`   | a path, or `class=path` joined by `|`; empty where unlabelled | empty              |

Further columns are kept. Every cell is a string.
"""

import csv
import os
import re
import zlib
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cache import states
from keras_meduda.data.files import as_on_disk, one_name
from keras_meduda.data.io import (
    DataError,
    Problem,
    image_files,
    is_volume,
    mask_files,
    replacing,
)

COLUMNS = ("case", "domain", "split", "group", "image", "mask")


def case_table(rows) -> pd.DataFrame:
    """A case table of rows in which only `case` and `image` are required.

    Args:
        rows: dictionaries, or a frame of strings.

    Returns:
        The frame with `COLUMNS` first.

    Raises:
        DataError: a case without a name or an image, or two of one name in a domain.

    Example:
        >>> case_table([{"case": "a", "image": "a.png"}]).loc[0, "domain"]
        'unknown'
    """
    cases = pd.DataFrame(rows).reset_index(drop=True)
    for column, default in [("domain", "unknown"), ("split", ""), ("mask", ""), ("group", "")]:
        cases[column] = cases.get(column, pd.Series(default, cases.index, dtype=object))
    for column in ("case", "image"):  # an empty table has no columns
        cases[column] = cases.get(column, pd.Series("", cases.index, dtype=object))
    cases = cases.astype(object).where(cases.notna(), "").astype(str)
    for column in ("case", "domain", "split", "group"):
        cases[column] = cases[column].map(one_name)
    cases["domain"] = cases["domain"].replace("", "unknown")
    cases["group"] = cases["group"].where(cases["group"] != "", cases["case"])
    problems = [
        Problem("case table", f"row {i + 1} without {column}", "a value in every row")
        for column in ("case", "image")
        for i in np.flatnonzero(cases[column] == "")
    ]
    twice = cases[cases.duplicated(["domain", "case"])]
    problems += [
        Problem("case table", f"case {row.case!r} twice in domain {row.domain!r}", "one row a case")
        for row in twice.itertuples()
    ]
    if problems:
        raise DataError(*problems)
    return cases[[*COLUMNS, *(c for c in cases.columns if c not in COLUMNS)]]


def read_cases(path) -> pd.DataFrame:
    r"""The case table of a CSV file.

    Args:
        path: a UTF-8 file, with or without a byte order mark, separated by `,`, `;` or tabs, or by
            what its first line names (`sep=;`, as Excel writes it); empty columns at its end are
            left out. Relative paths in it count from its own folder. Backslashes and accents may be
            written in another way than on the disk.

    Returns:
        The frame, with absolute paths.

    Raises:
        DataError: no such file, not a CSV, no `case` or `image` column, or what `case_table` says.

    Example:
        >>> path = getfixture("tmp_path") / "cases.csv"
        >>> _ = path.write_text("case;image\na;images/a.png\n")
        >>> read_cases(path).loc[0, "image"].endswith("/images/a.png")
        True
    """
    folder = Path(path).absolute().parent
    try:
        cases = case_table(read_table(path, required=("case", "image")))
    except DataError as error:
        raise DataError(*(Problem(path, p.found, p.expected) for p in error.problems)) from error
    return _with_paths(cases, lambda file: os.path.abspath(as_on_disk(folder / file)))


def write_cases(cases, path):
    """Write a case table, with paths relative to it, in one step or not at all.

    Args:
        cases: the frame.
        path: the CSV file.

    Example:
        >>> path = getfixture("tmp_path") / "cases.csv"
        >>> write_cases(case_table([{"case": "a", "image": path.parent / "a.png"}]), path)
        >>> path.read_text().splitlines()[1]
        'a,unknown,,a,a.png,'
    """
    folder = Path(path).absolute().parent

    def relative_path(file):
        try:
            return Path(os.path.relpath(file, folder)).as_posix()
        except ValueError:  # Windows knows no way from one drive to another
            return Path(file).as_posix()

    relative = _with_paths(cases, relative_path)
    with replacing(path) as temporary:
        relative.to_csv(temporary, index=False)


def read_table(path, required) -> pd.DataFrame:
    """A CSV file as a frame of strings.

    Args:
        path: the file.
        required: names of columns that must be there.

    Returns:
        The frame; surrounding blanks are stripped.

    Raises:
        DataError: no such file, not a CSV in UTF-8, a missing or repeated column, or a row of
            another length than the header.
    """
    expected = f"a CSV file in UTF-8 with the columns {', '.join(required)}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(Problem(path, error.strerror.lower(), expected)) from error
    except UnicodeDecodeError as error:
        raise DataError(Problem(path, "bytes that are not UTF-8 text", expected)) from error
    text = one_name(text)
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    if told := re.fullmatch(r'"?sep=(.)"?\s*', header, re.IGNORECASE):
        separator, text = told[1], text.partition("\n")[2]
    try:
        lines = [
            [cell.strip() for cell in line]
            for line in csv.reader(StringIO(text), delimiter=separator)
            if any(line)
        ]
    except csv.Error as error:
        raise DataError(Problem(path, f"text that is no table ({error})", expected)) from error
    width = max((i for line in lines for i, cell in enumerate(line, 1) if cell), default=0)
    lines = [line[:width] for line in lines]  # spreadsheets leave empty columns at the end
    columns = lines[0] if lines else []
    if not set(required) <= set(columns) or len(set(columns)) < len(columns):
        names = ", ".join(columns)[:200] or "(none)"
        raise DataError(Problem(path, f"the columns {names}", expected))
    ragged = [
        Problem(path, f"{len(line)} cells in row {i}", f"{len(columns)}, as in the header")
        for i, line in enumerate(lines[1:], start=1)
        if len(line) != len(columns)
    ]
    if ragged:
        raise DataError(*ragged)
    return pd.DataFrame(lines[1:], columns=columns, dtype=object)


def without_masks(cases) -> pd.DataFrame:
    """A copy whose mask cells are empty: the target's training cases, whose labels are never read.

    Args:
        cases: the frame.

    Returns:
        The copy.

    Example:
        >>> cases = case_table([{"case": "a", "image": "a.png", "mask": "b.png"}])
        >>> without_masks(cases).loc[0, "mask"]
        ''
    """
    return cases.assign(mask="")


def states_of(cases) -> list:
    """Case, size and time of change of every file, which tell whether something was made of it.

    Wherever the files lie: data may move. A DICOM series has those of all files of its folder.
    """
    return [
        [case.case, *state]
        for case in cases.itertuples()
        for state in image_states(case) + _states([file for _, file in mask_files(case.mask)])
    ]


def image_states(case) -> list:
    """Size and time of change of every image file of a row, wherever it lies."""
    return _states(image_files(case.image))


def _states(files):
    """Those of `cache.states` without the paths."""
    return [state for _, *state in states(file for file in files if file)]


def are_volumes(cases) -> bool:
    """Whether cases are volumes rather than pictures, by the first of them; `False` of none."""
    return len(cases) > 0 and is_volume(cases["image"].iloc[0])


def require_masks(caller, cases) -> None:
    """Refuses no cases, or one without a mask.

    Raises:
        ValueError: how many there are, and how many of them have none.
    """
    without = int((cases["mask"] == "").sum())
    if without or not len(cases):
        raise ValueError(
            f"{caller}: {len(cases)} cases, {without} of them without a mask; expected one or "
            "more, all with masks, such as cases[cases['mask'] != '']."
        )


def split_cases(cases, shares, seed=0) -> pd.DataFrame:
    """Split every domain by whole groups, at random and always alike.

    The groups of a domain are shuffled by a generator of the seed and the domain's name and laid
    end to end; a group belongs to the part in which its middle falls. So a domain's split depends
    neither on the order of rows nor on the other domains.

    Args:
        cases: the frame.
        shares: `{"train": 0.8, "test": 0.2}`, or numbers of cases; scaled to their sum.
        seed: of the shuffle. Default 0.

    Returns:
        A copy with a new `split` column.

    Raises:
        ValueError: shares that are negative or all zero.

    Example:
        >>> cases = case_table([{"case": str(i), "image": "a.png"} for i in range(10)])
        >>> split_cases(cases, {"train": 0.8, "test": 0.2})["split"].value_counts().to_dict()
        {'train': 8, 'test': 2}
    """
    parts, share = list(shares), np.array(list(shares.values()), "float64")
    if (share < 0).any() or share.sum() <= 0:
        raise ValueError(f"split_cases: received shares {shares}, expected positive numbers.")
    bounds = np.cumsum(share / share.sum())
    part_of = {}
    for domain, rows in cases.groupby("domain"):
        sizes = rows["group"].value_counts().sort_index()
        sizes = sizes.iloc[
            np.random.default_rng([seed, zlib.crc32(domain.encode())]).permutation(len(sizes))
        ]
        middles = (np.cumsum(sizes) - sizes / 2) / len(rows)
        for group, i in zip(sizes.index, np.searchsorted(bounds, middles), strict=True):
            part_of[domain, group] = parts[min(i, len(parts) - 1)]
    keys = zip(cases["domain"], cases["group"], strict=True)
    return cases.assign(split=[part_of[key] for key in keys])


def split_together(cases, shares, seed=0) -> pd.DataFrame:
    """`split_cases`, but domains that share groups, such as contrasts of a patient, are one domain.

    Example:
        >>> rows = [{"case": c, "domain": d, "image": "a.nii"} for c in "ab" for d in ("t2", "t1")]
        >>> parts = split_together(case_table(rows), {"train": 1, "test": 1})
        >>> parts.groupby("group")["split"].nunique().tolist()
        [1, 1]
    """
    shared = (cases.groupby("group")["domain"].nunique() > 1).any()
    whole = cases.assign(domain="all") if shared else cases
    return cases.assign(split=split_cases(whole, shares, seed)["split"])


def split_or_given(cases, shares, seed=0) -> pd.DataFrame:
    """The table with the split that it names, or that of `split_together` where it names none.

    Raises:
        DataError: some rows name their split and others do not.

    Example:
        >>> cases = case_table([{"case": "a", "image": "a.png", "split": "test"}])
        >>> split_or_given(cases, {"train": 1.0})["split"].tolist()
        ['test']
    """
    without = cases["split"] == ""
    if without.all():
        return split_together(cases, shares, seed)
    if without.any():
        names = ", ".join(cases["case"][without][:5])
        raise DataError(
            Problem(
                "case table",
                f"no split in {without.sum()} of {len(cases)} rows ({names})",
                "a split in every row, or in none",
            )
        )
    return cases


def _with_paths(cases, function):
    """A copy with a function applied to every path of the image and mask cells."""

    def image(cell):
        return "|".join(function(file) for file in image_files(cell))

    def parts(cell):
        return [(name, function(file)) for name, file in mask_files(cell)] if cell else []

    def apart(file):
        """A path that does not look like `class=path`, such as `fold=1/a.png` would."""
        return f"./{file}" if mask_files(file) != [("", file)] else file

    def mask(cell):
        return "|".join(f"{name}={file}" if name else apart(file) for name, file in parts(cell))

    return cases.assign(image=cases["image"].map(image), mask=cases["mask"].map(mask))
