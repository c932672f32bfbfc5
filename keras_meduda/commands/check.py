"""What is wrong with a case table or a data set, without a training.

meduda check --cases cases.csv --classes cup=255 disc=128,255
meduda check --dataset refuge --root REFUGE
"""

from dataclasses import dataclass

from keras_meduda.experiment.options import Existing
from keras_meduda.experiment.shift import DATASETS


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Check of a data set."""

    cases: Existing | None = None
    """Case table, or folder of images."""
    classes: tuple[str, ...] = ()
    """Classes and their mask values, for --cases, such as tumour=1,255; without them no mask is
    read."""
    dataset: DATASETS | None = None
    """Layout of --root, instead of --cases."""
    root: Existing | None = None
    """Folder of the data set."""


def main(flags):
    """Prints what there is; every problem is in one message."""
    from rich.console import Console
    from rich.table import Table

    from keras_meduda.data import catalog
    from keras_meduda.data.checks import checked
    from keras_meduda.experiment.shift import task_of

    if bool(flags.cases) == bool(flags.dataset and flags.root):
        raise ValueError("Received neither or both; expected --cases, or --dataset with --root.")
    if flags.cases:
        cases, task = catalog.cases_at(flags.cases), None
        if flags.classes:
            task = task_of(flags.classes, cases)
    else:
        cases, task = getattr(catalog, flags.dataset)(flags.root)
    channels = 1 if cases["image"].iloc[0].endswith((".nii", ".nii.gz")) else 3
    masks = (cases["mask"] != "") & (task is not None)
    checked(cases, task or task_of(("any=1",), cases), masks, channels)
    table = Table("domain", "split", "cases", "groups", "with masks")
    for (domain, split), part in cases.groupby(["domain", "split"]):
        counts = len(part), part["group"].nunique(), (part["mask"] != "").sum()
        table.add_row(domain, split or "–", *map(str, counts))
    Console().print(table)
    print("no problems found" + ("" if task else "; masks were not read, for want of --classes"))
