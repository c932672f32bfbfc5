"""The case table: one row a case, from reading it to the list of everything wrong with its files.

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
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from keras_meduda.data.io import (
    DataError,
    Problem,
    image_files,
    mask_files,
    read_affine,
    read_image,
    read_mask,
    replacing,
    same_grid,
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
        path: a UTF-8 file, with or without a byte order mark, separated by `,` or `;`. Relative
            paths in it count from its own folder.

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
    return _with_paths(cases, lambda file: os.path.abspath(folder / file))


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
    relative = _with_paths(cases, lambda file: Path(os.path.relpath(file, folder)).as_posix())
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
    header = text.partition("\n")[0]
    separator = ";" if header.count(";") > header.count(",") else ","
    try:
        lines = [
            [cell.strip() for cell in line]
            for line in csv.reader(StringIO(text), delimiter=separator)
            if any(line)
        ]
    except csv.Error as error:
        raise DataError(Problem(path, f"text that is no table ({error})", expected)) from error
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


def validate(cases, task, read_masks=None, channels=None) -> list[Problem]:
    """Everything that is wrong with a case table and its files, in one list.

    Errors: an empty table, a group in two splits of a domain, an image that is its own mask, no
    mask where one was asked for; files that are missing, truncated, unreadable or hold NaN;
    a mask of another shape or position than its image, with undeclared values, or *inverted*: it
    covers more than 90 % of the image or of its border, which in practice is a background declared
    as a class, and would train without complaint.
    Warnings: a constant image; a class outside the one that contains it (a cup outside its disc).

    Args:
        cases: the frame.
        task: the `Task` that declares classes and mask values.
        read_masks: a boolean a row; these rows need a mask, and only theirs are opened. Where
            labels must stay unseen, as in the target's training part, pass `False` or blank their
            cells with `without_masks`. Default: every row that has a mask.
        channels: channels a network expects; a grey image may be repeated, alpha dropped, colour
            made grey. Default: any.

    Returns:
        The problems, those of the table first, then in the order of rows.

    Example:
        >>> from keras_meduda.task import Task
        >>> cases = case_table([{"case": "a", "image": "missing.png"}])
        >>> [problem.found for problem in validate(cases, Task(classes=("lesion",)))]
        ['no such file']
    """
    wanted = np.ones(len(cases), bool) if read_masks is None else np.asarray(read_masks, bool)
    masks = cases["mask"].where(wanted, "")
    problems = _table_problems(cases)
    if read_masks is not None and (missing := wanted & (masks == "")).any():
        names = ", ".join(cases["case"][missing][:5])
        problems.append(
            Problem(
                "case table",
                f"no mask in {missing.sum()} of {wanted.sum()} labelled rows ({names})",
                "a mask in each of them",
            )
        )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(
            lambda image, mask: _case_problems(image, mask, task, channels), cases["image"], masks
        )
        for of_case in progress(found, "Checking files", len(cases)):
            problems += of_case
    return problems


def checked(cases, task, read_masks=None, channels=None) -> None:
    """Prints the warnings of `validate`, of which the arguments are, and refuses its errors.

    Raises:
        DataError: all errors, in one list.
    """
    problems = validate(cases, task, read_masks, channels)
    for problem in problems:
        if problem.severity == "warning":
            print(problem, file=sys.stderr)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise DataError(*errors)


def split_or_given(cases, shares, seed=0) -> pd.DataFrame:
    """The table with the split that it names, or that of `split_cases` where it names none.

    Raises:
        DataError: some rows name their split and others do not.

    Example:
        >>> cases = case_table([{"case": "a", "image": "a.png", "split": "test"}])
        >>> split_or_given(cases, {"train": 1.0})["split"].tolist()
        ['test']
    """
    without = cases["split"] == ""
    if without.all():
        return split_cases(cases, shares, seed)
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


def progress(steps, description, total):
    """The steps, with a bar on the terminal where there are more than 50.

    Args:
        steps: iterable.
        description: text beside the bar.
        total: number of steps.

    Returns:
        An iterable of the same items.
    """
    return track(
        steps,
        description,
        total,
        console=Console(stderr=True),
        disable=total <= 50 or not sys.stderr.isatty(),
    )


def _with_paths(cases, function):
    """A copy with a function applied to every path of the image and mask cells."""

    def image(cell):
        return "|".join(function(file) for file in image_files(cell))

    def mask(cell):
        return (
            "|".join(
                (f"{name}=" if name else "") + function(file) for name, file in mask_files(cell)
            )
            if cell
            else ""
        )

    return cases.assign(image=cases["image"].map(image), mask=cases["mask"].map(mask))


def _table_problems(cases):
    """What the table shows without opening a file."""
    if cases.empty:
        return [Problem("case table", "0 cases", "at least one")]
    problems = []
    for (domain, group), rows in cases[cases["split"] != ""].groupby(["domain", "group"]):
        if rows["split"].nunique() > 1:
            problems.append(
                Problem(
                    "case table",
                    f"group {group!r} of domain {domain!r} in "
                    f"{' and '.join(sorted(rows['split'].unique()))}",
                    "a group in one split alone",
                )
            )
    for case in cases.itertuples():
        if {file for _, file in mask_files(case.mask)} & set(image_files(case.image)):
            problems.append(Problem(case.image, "the same file as image and mask", "two files"))
    return problems


def _case_problems(image_cell, mask_cell, task, channels):
    """What the files of one case show."""
    problems, image, labels = [], None, None
    try:
        image = read_image(image_cell)
        problems += _image_problems(image_cell, image.array, channels)
    except DataError as error:
        problems += error.problems
    try:
        if mask_cell:
            labels = read_mask(mask_cell, task)
            problems += _mask_problems(mask_cell, labels, task)
    except DataError as error:
        problems += error.problems
    if image is not None and labels is not None:
        shape = image.array.shape[:-1]
        if labels.shape != shape:
            problems.append(
                Problem(
                    mask_cell,
                    f"a mask of shape {labels.shape}",
                    f"{shape}, the shape of {image_cell}",
                )
            )
        elif not same_grid(shape, image.affine, read_affine(mask_cell)):
            problems.append(
                Problem(mask_cell, "another position in space", f"that of {image_cell}")
            )
    return problems


def _image_problems(cell, array, channels):
    found = array.shape[-1]
    colours = found - 1 if found in (2, 4) and found != channels else found  # without alpha
    problems = []
    if channels and colours not in (1, channels) and not (colours == 3 and channels == 1):
        problems.append(Problem(cell, f"{found} channels", f"{channels}"))
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0)).reshape(found, -1)
    low, high = planes.min(axis=1), planes.max(axis=1)
    if not np.isfinite([low, high]).all():
        problems.append(Problem(cell, "NaN or infinite values", "finite numbers"))
    constant = low == high
    if constant.all() or (constant.any() and len(image_files(cell)) > 1):
        problems.append(
            Problem(
                cell,
                f"the value {low[constant][0]} everywhere",
                "an image with contrast",
                "warning",
            )
        )
    return problems


def _mask_problems(cell, labels, task):
    problems = []
    foreground = labels > 0
    inner = tuple(slice(1, -1) for _ in labels.shape)
    border = foreground.size - foreground[inner].size
    on_border = np.count_nonzero(foreground) - np.count_nonzero(foreground[inner])
    for share, where in [(foreground.mean(), "the image"), (on_border / border, "its border")]:
        if share > 0.9:
            problems.append(
                Problem(
                    cell,
                    f"classes on {share:.0%} of {where}: an inverted mask?",
                    f"background ({task.background}) around them",
                )
            )
            break
    for i, j in _nested(task):
        outside = np.count_nonzero((labels >> i) & ~(labels >> j) & 1)
        if outside:
            problems.append(
                Problem(
                    cell,
                    f"{outside} px of {task.classes[i]} outside {task.classes[j]}",
                    f"every {task.classes[i]} within its {task.classes[j]}",
                    "warning",
                )
            )
    return problems


def _nested(task):
    """Pairs of overlapping classes of which one's mask values are all the other's too."""
    values = [set(task.values[name]) for name in task.classes] if task.overlapping else []
    return [(i, j) for i, a in enumerate(values) for j, b in enumerate(values) if a < b]
