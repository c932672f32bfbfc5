"""Flags of the cases of one domain, in the words that every command uses, and what they name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from keras_meduda.experiment.options import Existing, NotNegative

DATASETS = Literal[
    "refuge", "drishti_gs", "rim_one_dl", "rim_one_r3", "fundus_rois", "brats", "folders"
]


@dataclass(frozen=True, kw_only=True)
class CaseFlags:
    """Cases of one domain: a table or folder, or a data set as its owner ships it."""

    cases: Existing | None = None
    """Case table (.csv), or folder of images, or with images/ and masks/."""
    dataset: DATASETS | None = None
    """Layout of --root, instead of --cases."""
    root: Existing | None = None
    """Folder of the data set."""
    classes: tuple[str, ...] | None = None
    """Classes and their mask values, such as cup=255 disc=128,255 or cup=#ff0000."""
    tolerance: NotNegative = 0
    """Mask values up to so far from a declared one count as it, as in JPEG masks."""

    @property
    def place(self) -> Path:
        """The file or folder that was named."""
        return self.cases or self.root

    @property
    def drawn(self) -> bool:
        """Whether no data are named, where phantoms can take their place."""
        return not (self.place or self.dataset)

    def read(self):
        """The cases, and the task of --classes or of the data set; `None` where neither says.

        Raises:
            ValueError: no data are named, half of them, or twice.
            DataError: what is wrong with the table or the layout, or a table without a case.
        """
        from keras_meduda.data import catalog
        from keras_meduda.data.files import DataError, Problem

        if bool(self.dataset) != bool(self.root) or bool(self.cases) == bool(self.dataset):
            raise ValueError(
                "Received neither, both or half; expected --cases, or --dataset with --root."
            )
        if self.dataset:
            return of_dataset(self.dataset, self.root, None, self)
        cases = catalog.cases_at(self.cases)
        if cases.empty:
            found, expected = "a header and no case below it", "a row for each case"
            raise DataError(Problem(self.cases, found, expected))
        task = task_of(self.classes, cases, self.tolerance) if self.classes else None
        return cases, task


def one_class(flags, task, cases, name="tumour"):
    """The task of a command that knows one class: of --classes, a data set, or the older --values.

    Args:
        flags: with `classes`, `tolerance` and `values`.
        task: of --classes or of a data set; `None` where neither says.
        cases: that it is for.
        name: of the class where none is named. Default `"tumour"`.

    Raises:
        ValueError: both forms, or several classes.
    """
    if flags.classes and flags.values:
        raise ValueError("--values is the older form of --classes; expected one of them.")
    if task is None:
        values = ",".join(map(str, flags.values or (1, 255)))
        task = task_of(flags.classes or (f"{name}={values}",), cases, flags.tolerance)
    if len(task.classes) > 1:
        raise ValueError(
            f"The classes {', '.join(task.classes)}; expected one, such as --classes {name}=1,255."
        )
    return replace(task, overlapping=True)


def task_of(classes, cases, tolerance=0):
    """The task of `--classes` and `--tolerance`, in the unit of the images.

    Raises:
        ValueError: a text that is not name=value,value.

    Example:
        >>> import pandas as pd
        >>> task_of(("cup=255", "disc=128,255"), pd.DataFrame({"image": ["a.png"]})).overlapping
        True
    """
    from keras_meduda.data.cases import are_volumes
    from keras_meduda.data.values import value_of
    from keras_meduda.task import Task

    values = {}
    for text in classes:
        name, _, numbers = text.partition("=")
        try:
            values[name] = tuple(map(value_of, numbers.split(",")))
        except ValueError:
            raise ValueError(
                f"--classes: received {text!r}, expected name=value,value such as disc=128,255."
            ) from None
    counts = [v for numbers in values.values() for v in numbers]
    overlapping = len(set(counts)) < len(counts)
    unit = "mm" if are_volumes(cases) else "px"
    return Task(tuple(values), overlapping, values, tolerance=tolerance, unit=unit)


def of_domain(cases, name, where):
    """The cases of one domain.

    Raises:
        ValueError: there are none; which domains there are.
    """
    found = cases[cases["domain"] == name]
    if not len(found):
        raise ValueError(
            f"{where}: no case of domain {name!r}; there are {sorted(cases['domain'].unique())}."
        )
    return found


def of_dataset(name, root, domain, flags):
    """Cases and task of a data set; --classes, where it was given, is that of plain folders.

    Args:
        name: of its layout.
        root: folder.
        domain: the only domain that is taken; `None`: all.
        flags: with `classes` and `tolerance`.

    Raises:
        ValueError: classes for a data set that has its own, or a domain without cases.
        DataError: what is wrong with the layout.
    """
    from keras_meduda.data import catalog

    cases, task = getattr(catalog, name)(root)
    if flags.classes:
        if name != "folders":
            raise ValueError(f"--classes is for --cases and folders; {name} has {task.classes}.")
        task = task_of(flags.classes, cases, flags.tolerance)
    return (of_domain(cases, domain, root) if domain else cases), task
