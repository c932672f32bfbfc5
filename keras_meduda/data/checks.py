"""Everything that is wrong with a case table and its files, before anything trains on them."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from keras_meduda.data.files import by_cause
from keras_meduda.data.io import (
    DataError,
    Problem,
    image_files,
    is_volume,
    mask_files,
    read_affine,
    read_image,
    read_mask,
    read_shape,
    read_spacing,
    same_grid,
)
from keras_meduda.data.pictures import is_jpeg, picture_turn
from keras_meduda.progress import track

_NAN_REMEDY = ", or --nan-background (nan_background=True) where NaN is the background"
FIELD = (2, 1000)  # mm, within which fields of view lie: of a mouse's brain, of a whole body


def validate(
    cases, task, read_masks=None, channels=None, spacing=None, nan_background=False
) -> list[Problem]:
    """Everything that is wrong with a case table and its files, in one list.

    Errors: an empty table, a group in two splits of a domain, an image that is its own mask, no
    mask where one was asked for; files that are missing, truncated, unreadable or hold NaN;
    a mask of another shape or position than its image, with undeclared values, or *inverted*: most
    masks cover more than 90 % of the image or of its border, which in practice is a background
    declared as a class, and would train without complaint.
    Warnings: a constant image; single masks that fill their image; a class outside the one that
    contains it (a cup outside its disc); a class that no mask holds; a picture that viewers turn; a
    JPEG mask; a fourth channel that is taken for alpha; a volume below 2 or above 1,000 mm, or one
    whose voxels are resampled more than tenfold.

    Args:
        cases: the frame.
        task: the `Task` that declares classes and mask values.
        read_masks: a boolean a row; these rows need a mask, and only theirs are opened. Where
            labels must stay unseen, as in the target's training part, pass `False` or blank their
            cells with `without_masks`. Default: every row that has a mask.
        channels: channels a network expects; of a picture in one file alpha may be dropped, grey
            repeated and colour made grey. Default: any.
        spacing: mm along X, Y and Z to which volumes are resampled. Default: their own.
        nan_background: whether NaN is background, as `Preprocessing` has it. Default `False`.

    Returns:
        The problems, those of the table first, then in the order of rows.

    Example:
        >>> from keras_meduda.data.cases import case_table
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
    held, full = [], []  # the labels of every mask; what fills its image
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(
            lambda row, mask: _case_problems(
                row.image, mask, task.of(row), channels, spacing, nan_background, held, full
            ),
            cases.itertuples(),
            masks,
        )
        for of_case in track(found, len(cases), "checking files"):
            problems += of_case
    if len(full) <= len(held) / 2:  # tiles within a tumour, not a convention
        as_warning = {id(problem): replace(problem, severity="warning") for problem in full}
        problems = [as_warning.get(id(problem), problem) for problem in problems]
    return problems + _absent_classes(task, held)


def checked(
    cases, task, read_masks=None, channels=None, spacing=None, nan_background=False
) -> None:
    """Prints the warnings of `validate`, of which the arguments are, and refuses its errors.

    Raises:
        DataError: all errors, in one list.
    """
    problems = validate(cases, task, read_masks, channels, spacing, nan_background)
    for line in by_cause(problem for problem in problems if problem.severity == "warning"):
        print(line, file=sys.stderr)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise DataError(*errors)


def check_parts(parts, task, channels=None, nan_background=False) -> None:
    """Looks at every file of several case tables, as `checked` does of one.

    Args:
        parts: pairs of a case table and the masks to read of it, as `validate` takes them; tables
            without a case are passed over.
        task: as `validate` takes it.
        channels: likewise. Default `None`.
        nan_background: likewise. Default `False`.

    Raises:
        DataError: all errors of all tables, in one list.
    """
    problems = []
    for cases, masks in parts:
        try:
            if len(cases):
                checked(cases, task, masks, channels, nan_background=nan_background)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)


def header_warnings(cell, spacing=None) -> list[Problem]:
    """What the headers of an image let doubt: pictures that viewers turn, sizes in another unit.

    Args:
        cell: the image.
        spacing: mm along X, Y and Z to which it is resampled. Default: its own.

    Returns:
        Warnings.
    """
    if not is_volume(cell):
        turned = [file for file in image_files(cell) if picture_turn(file) != 1]
        expected = "stored pixels that are upright, or masks drawn on these: it is not applied"
        return [
            Problem(file, f"the EXIF orientation {picture_turn(file)}", expected, "warning")
            for file in turned
        ]
    problems, own, shape = [], np.array(read_spacing(cell)), np.array(read_shape(cell))
    field = own * shape
    if ((field < FIELD[0]) & (shape > 1) | (field > FIELD[1])).any():
        found = f"a field of view of {' × '.join(f'{mm:.4g}' for mm in field)} mm"
        expected = f"{FIELD[0]} to {FIELD[1]:,} mm along each axis: is the header in cm or µm?"
        problems.append(Problem(cell, found, expected, "warning"))
    factor = own / np.array(spacing if spacing else own)
    if max(factor.max(), (1 / factor).max()) > 10:
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in own)} mm"
        expected = f"at most tenfold of {' × '.join(f'{mm:g}' for mm in spacing)} mm, their target"
        problems.append(Problem(cell, found, expected, "warning"))
    return problems


def check_grid(labels, mask_cell, image_cell) -> None:
    """Refuses labels `(*spatial)` of another shape, or position in space, than their image.

    Raises:
        DataError: they differ.
    """
    if problems := _grid_problems(labels, mask_cell, image_cell):
        raise DataError(*problems)


def read_reference(row, task) -> np.ndarray:
    """The labels of a case, which lie where its image does.

    Args:
        row: of a case table, with a mask.
        task: declares the values of the mask file.

    Returns:
        uint8 labels `(*spatial)`, as `read_mask` gives them.

    Raises:
        DataError: a mask that cannot be read, or of another shape or position than its image.

    Example:
        >>> from keras_meduda.data.cases import read_cases
        >>> from keras_meduda.task import Task
        >>> task = Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
        >>> row = next(read_cases(getfixture("phantoms")).itertuples())
        >>> read_reference(row, task).shape
        (64, 64)
    """
    labels = read_mask(row.mask, task.of(row))
    check_grid(labels, row.mask, row.image)
    return labels


def read_labelled(row, task, nan_background=False):
    """The image of a case and the labels that lie where it does.

    Args:
        row: of a case table, with a mask.
        task: declares the values of the mask file.
        nan_background: whether NaN is background, as `Preprocessing` has it. Default `False`.

    Returns:
        `(image, labels)`, as `read_image` and `read_mask` give them.

    Raises:
        DataError: as `read_reference`; an image that cannot be read, or that holds NaN.

    Example:
        >>> from keras_meduda.data.cases import read_cases
        >>> from keras_meduda.task import Task
        >>> task = Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
        >>> row = next(read_cases(getfixture("phantoms")).itertuples())
        >>> image, labels = read_labelled(row, task)
        >>> image.array.shape, labels.shape
        ((64, 64, 3), (64, 64))
    """
    image = read_image(row.image)
    if problems := _odd_numbers(row.image, image.array, nan_background):
        raise DataError(*problems)
    return image, read_reference(row, task)


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


def _absent_classes(task, held):
    """Classes in no mask at all, which would be learnt as never there."""
    labels = np.concatenate([[0], *held]).astype("uint8")
    there = task.one_hot(labels).any(axis=0)[0 if task.overlapping else 1 :]
    return [
        Problem("case table", f"{name} in none of {len(held)} masks", "it in some", "warning")
        for name, any_of_it in zip(task.classes, there, strict=True)
        if held and not any_of_it
    ]


def _case_problems(image_cell, mask_cell, task, channels, spacing, nan_background, held, full):
    """What the files of one case show.

    Its labels are added to those that masks hold, a mask that fills its image to those that do.
    """
    problems, image, labels = [], None, None
    try:
        image = read_image(image_cell)
        problems += _image_problems(image_cell, image.array, channels, nan_background)
        problems += header_warnings(image_cell, spacing)
    except DataError as error:
        problems += error.problems
    try:
        if mask_cell:
            labels = read_mask(mask_cell, task)
            problems += _mask_problems(mask_cell, labels, task, full)
            problems += _jpeg_mask(mask_cell)
            held.append(np.flatnonzero(np.bincount(labels.ravel())))
    except DataError as error:
        problems += error.problems
    if image is not None and labels is not None:
        problems += _grid_problems(labels, mask_cell, image_cell)
    return problems


def _grid_problems(labels, mask_cell, image_cell):
    """Whether a mask lies where its image does, by the image's header."""
    shape = read_shape(image_cell)
    if labels.shape != shape:
        expected = f"{shape}, the shape of {image_cell}"
        return [Problem(mask_cell, f"a mask of shape {labels.shape}", expected)]
    if not same_grid(shape, read_affine(image_cell), read_affine(mask_cell)):
        return [Problem(mask_cell, "another position in space", f"that of {image_cell}")]
    return []


def _image_problems(cell, array, channels, nan_background):
    if nan_background and array.dtype.kind == "f":
        array = np.where(np.isnan(array), 0, array)
    found, several = array.shape[-1], len(image_files(cell)) > 1
    colours = found  # without alpha
    varies = found in (2, 4) and bool((array[..., -1] != array[..., -1].flat[0]).any())
    if channels and found != channels and (found == 4 or found == 2 and not varies):
        colours = found - 1
    fits = array.ndim == 3 and (colours in (1, channels) or (colours == 3 and channels == 1))
    problems = []
    if channels and found != channels and (several or not fits):
        hint = ": one in a file of its own" if found == 2 else ""
        problems.append(Problem(cell, f"{found} channels", f"{channels}{hint}"))
    elif varies and channels not in (None, found):
        alpha = "a fourth channel that varies"
        problems.append(Problem(cell, alpha, "alpha, which is dropped", "warning"))
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0)).reshape(found, -1)
    low, high = planes.min(axis=1), planes.max(axis=1)
    problems += _odd_numbers(cell, np.array([low, high]), nan_background)
    constant = low == high
    if constant.all() or (constant.any() and several):
        problems.append(
            Problem(
                cell,
                f"the value {low[constant][0]} everywhere",
                "an image with contrast",
                "warning",
            )
        )
    return problems


def _odd_numbers(cell, array, nan_background):
    """NaN and infinite values, of which NaN may be the background."""
    odd = ~np.isfinite(array)
    if nan_background and odd.any():
        odd &= ~np.isnan(array)
    if not odd.any():
        return []
    remedy = "" if nan_background or np.isinf(array).any() else _NAN_REMEDY
    return [Problem(cell, "NaN or infinite values", f"finite numbers{remedy}")]


def _jpeg_mask(cell):
    """A warning of masks that JPEG has blurred."""
    files = [file for _, file in mask_files(cell) if not is_volume(file) and is_jpeg(file)]
    expected = "a lossless format; its values count as the nearest declared ones"
    return [Problem(file, "a JPEG mask", expected, "warning") for file in files]


def _mask_problems(cell, labels, task, full):
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
            full.append(problems[-1])
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
