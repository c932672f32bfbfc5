"""Flags that choose labelled cases for a trained run."""

from dataclasses import dataclass, replace

from keras_meduda.experiment.one_domain import CaseFlags
from keras_meduda.experiment.options import Existing


def check_cases(cases, task, preprocessing):
    """Looks at every image and mask as a run of this preprocessing will read them.

    Raises:
        DataError: all that is wrong with the files.
    """
    from keras_meduda.data.checks import checked

    checked(
        cases,
        task,
        channels=preprocessing.channels,
        spacing=preprocessing.own_spacing,
        nan_background=preprocessing.nan_background,
    )


@dataclass(frozen=True, kw_only=True)
class LabelledFlags(CaseFlags):
    """Flags of every command that needs a run's masks and true ones."""

    cases: Existing | None = None
    """Case table or folder with masks; default: the run's own cases.csv, with --split test."""
    classes: tuple[str, ...] | None = None
    """Mask values of the run's classes in these cases, where they are others than in training."""
    domain: str | None = None
    """Only cases of this domain."""
    split: str | None = None
    """Only cases of this split; where the table names none, of that with which the run trained."""

    def chosen(self, first, task):
        """The cases of the flags, the table that they stand in, their split, and the run's task.

        The task is told how these masks are encoded, where the flags or the data set say so.

        Args:
            first: the run folder, whose own cases are the default.
            task: of the run.

        Raises:
            ValueError: other classes, no such domain or split, or a case without a mask.
        """
        from keras_meduda.data.parts import NAME, known, read_parts

        split = self.split
        if self.cases or self.dataset or self.root:
            (cases, told), table = self.read(), self.place
            if told and set(told.classes) != set(task.classes):
                raise ValueError(
                    f"The classes {', '.join(told.classes)}; expected those of the run: "
                    f"{', '.join(task.classes)}."
                )
            how = {"tolerance": self.tolerance} if self.tolerance else {}
            if told:
                how = {"background": told.background, "tolerance": told.tolerance}
                how["values"] = {name: told.values[name] for name in task.classes}
            task = replace(task, **how)
            if split and (cases["split"] == "").all():
                cases = cases.assign(split=known(cases, first)["split"])
                if (cases["split"] == "").all():
                    raise ValueError(
                        f"{table}: names no split, and {first / NAME} knows none of its cases; "
                        f"expected a column split, or no --split {split}."
                    )
        else:
            cases, table, split = read_parts(first), first / NAME, split or "test"
            if cases is None:
                raise ValueError(
                    f"{first}: keeps no {NAME}, as runs of earlier versions; expected --cases "
                    "TABLE."
                )
        for column, wanted in (("domain", self.domain), ("split", split)):
            if wanted is not None:
                if wanted not in set(cases[column]):
                    raise ValueError(
                        f"{table}: no case of {column} {wanted!r}; there are "
                        f"{sorted(cases[column].unique())}."
                    )
                cases = cases[cases[column] == wanted]
        if unlabelled := cases["case"][cases["mask"] == ""].tolist():
            masked = sorted(cases["domain"][cases["mask"] != ""].unique())
            remedy = f"--domain {' or '.join(masked)}, or " if masked else ""
            raise ValueError(
                f"{table}: {len(unlabelled)} of {len(cases)} cases have no mask to "
                f"compare with: {', '.join(unlabelled[:5])} …; expected {remedy}--cases TABLE with "
                "masks."
            )
        return cases, table, split, task
