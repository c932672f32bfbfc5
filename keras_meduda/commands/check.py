"""What is wrong with a case table or a data set, without a training.

meduda check --cases cases.csv --classes cup=255 disc=128,255
meduda check --dataset refuge --root REFUGE
"""

from dataclasses import dataclass

from keras_meduda.experiment.one_domain import CaseFlags


@dataclass(frozen=True, kw_only=True)
class Flags(CaseFlags):
    """Check of a data set."""

    classes: tuple[str, ...] | None = None
    """Classes and their mask values, for --cases, such as tumour=1,255; without them no mask is
    read."""
    nan_background: bool = False
    """Take NaN for background, as the training is to do."""


def main(flags):
    """Prints what there is; every problem is in one message."""
    from rich.console import Console
    from rich.table import Table

    from keras_meduda.data.cases import are_volumes
    from keras_meduda.data.checks import checked
    from keras_meduda.experiment.one_domain import task_of

    cases, task = flags.read()
    channels = 1 if are_volumes(cases) else 3
    masks = (cases["mask"] != "") & (task is not None)
    nan = flags.nan_background
    checked(cases, task or task_of(("any=1",), cases), masks, channels, nan_background=nan)
    table = Table("domain", "split", "cases", "groups", "with masks")
    for (domain, split), part in cases.groupby(["domain", "split"]):
        counts = len(part), part["group"].nunique(), (part["mask"] != "").sum()
        table.add_row(domain, split or "–", *map(str, counts))
    Console().print(table)
    print("no problems found" + ("" if task else "; masks were not read, for want of --classes"))
