"""Which cases take which part in an experiment."""

from dataclasses import dataclass

import pandas as pd

from keras_meduda.task import Task

USES = {  # of the labels of each training part
    "source": "training",
    "target": "nothing",
    "oracle": "oracle",
    "few": "training",
    "few_target": "the last step",
    "validation": "choosing the weights",
}


@dataclass(frozen=True)
class Data:
    """The cases of an experiment by the part that they take in it.

    Args:
        task: what is segmented.
        parts: what trains. `"source"` has labels, `"target"` has its masks blanked; `"oracle"` is
            the target with labels, `"few"` are the few labelled cases that a student
            learns from, `"few_target"` those of the target that end an adaptation, `"validation"`
            chooses the weights. A part without cases is left out.
        tests: what is scored, by heading. The report is about the first; where that has no case or
            no masks, no accuracy can be given.
        described: where the cases come from, for the report.
        route: from which domains to which, where there are two. Default none.
        prompted: all cases, for a teacher that is shown them, or boxes drawn from their masks.
            Default none.
    """

    task: Task
    parts: dict[str, pd.DataFrame]
    tests: dict[str, pd.DataFrame]
    described: str
    route: str = ""
    prompted: pd.DataFrame | None = None

    def __post_init__(self):
        parts = {name: cases for name, cases in self.parts.items() if len(cases)}
        object.__setattr__(self, "parts", parts)

    @property
    def scored(self) -> dict[str, pd.DataFrame]:
        """The tested cases that have a mask, by heading."""
        masked = {name: cases[cases["mask"] != ""] for name, cases in self.tests.items()}
        return {name: cases for name, cases in masked.items() if len(cases)}

    @property
    def table(self) -> list[dict]:
        """Which cases take which part: `part, cases, groups` and `use`, that of their labels."""
        rows = [(f"{name}, train", cases, USES[name]) for name, cases in self.parts.items()]
        for name, cases in self.tests.items():
            masked = cases["mask"] != ""
            rows += [(name, cases[masked], "evaluation"), (name, cases[~masked], "none there")]
        return [
            {"part": part, "cases": len(cases), "groups": cases["group"].nunique(), "use": use}
            for part, cases, use in rows
            if len(cases)
        ]
