"""What is compared: the cases of a domain adaptation by the part that they take in it."""

import os
import sys
from dataclasses import dataclass

import pandas as pd

from keras_meduda.data import catalog
from keras_meduda.data.cases import read_cases, split_or_given, split_together, without_masks
from keras_meduda.data.checks import checked
from keras_meduda.data.io import DataError, Problem, image_files, is_volume
from keras_meduda.data.phantoms import drawn, write_fundus
from keras_meduda.task import Task


@dataclass(frozen=True)
class Study:
    """The cases of an adaptation, by their part in it; no part but `oracle` has target labels."""

    task: Task
    target_task: Task  # the same classes, in the values of the target's mask files
    source: pd.DataFrame  # labelled, for training
    source_test: pd.DataFrame  # labelled, to see what adaptation costs on the source
    target: pd.DataFrame  # masks blanked, for adaptation
    target_test: pd.DataFrame  # evaluated where labelled
    oracle: pd.DataFrame  # the target's training cases with labels, empty unless asked for

    @property
    def scored(self) -> pd.DataFrame:
        """The test cases of the target that have a mask."""
        return self.target_test[self.target_test["mask"] != ""]

    @property
    def route(self) -> str:
        """From which domains to which."""
        domains = (", ".join(cases["domain"].unique()) for cases in (self.source, self.target))
        return " → ".join(domains)

    @property
    def parts(self) -> list[dict]:
        """Which cases take which part: `part, cases, groups` and `use`, that of their labels."""
        uses = [
            ("source, train", self.source, "training"),
            ("source, test", self.source_test, "evaluation"),
            ("target, train", self.target, "nothing"),
            ("target, test", self.scored, "evaluation"),
            ("target, test", self.target_test[self.target_test["mask"] == ""], "none there"),
            ("target, train", self.oracle, "oracle"),
        ]
        return [
            {"part": part, "cases": len(cases), "groups": cases["group"].nunique(), "use": use}
            for part, cases, use in uses
            if len(cases)
        ]


def read_study(flags) -> Study:
    """Reads the case tables, looks at every file and prints what there is."""
    source, target, task, target_task = _read_domains(flags)
    source, target = _split(source, target, flags.seed)
    oracle = target[target["split"] == "train"] if flags.oracle else target.iloc[:0]
    if (oracle["mask"] == "").any():
        raise ValueError(
            "--oracle trains on the target's labels, but "
            f"{(oracle['mask'] == '').sum()} of its {len(oracle)} training cases have "
            "none. Leave the flag out."
        )
    study = Study(
        task=task,
        target_task=target_task,
        source=source[source["split"] == "train"],
        source_test=source[source["split"] == "test"],
        target=without_masks(target[target["split"] == "train"]),
        target_test=target[target["split"] == "test"],
        oracle=oracle,
    )
    _check_parts(study, source, target)
    labelled = pd.concat([study.source, study.source_test])
    others = pd.concat([oracle if flags.oracle else study.target, study.target_test])
    channels, problems = 1 if is_volume(source["image"].iloc[0]) else 3, []
    for cases, of, masks in (labelled, task, [True] * len(labelled)), (others, target_task, None):
        try:
            checked(cases, of, masks, channels)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return study


def _split(source, target, seed):
    """Both in train and test; a group that both have, such as a patient, is in one part alone."""
    shares = {"train": 0.8, "test": 0.2}
    both = pd.concat([source, target])
    if (both["split"] == "").all() and set(source["group"]) & set(target["group"]):
        both = split_together(both, shares, seed)
        return both[: len(source)], both[len(source) :]
    return split_or_given(source, shares, seed), split_or_given(target, shares, seed)


def _check_parts(study, source, target):
    """Refuses a study without training cases or of one domain twice; warns of what is unused."""
    parts = {"source": (study.source, source), "target": (study.target, target)}
    if empty := [
        Problem(
            "case table",
            f"no {name} case of split 'train' among {sorted(cases['split'].unique())}",
            "train, and test for those that are scored",
        )
        for name, (part, cases) in parts.items()
        if not len(part)
    ]:
        raise DataError(*empty)
    files, others = (
        {os.path.realpath(file) for cell in cases["image"] for file in image_files(cell)}
        for cases in (source, target)
    )
    if both := files & others:
        raise ValueError(
            f"{len(both)} image files are in the source and in the target, such as {min(both)}; "
            "expected two domains (--source-domain, --target-domain)."
        )
    for name, (_, cases) in parts.items():
        unread = cases["split"][~cases["split"].isin(["train", "test"])]
        for split, count in unread.value_counts().items():
            print(
                f"warning: {count} {name} cases of split {split!r} are not used; expected 'train' "
                "or 'test'.",
                file=sys.stderr,
            )
    if shared := set(study.source["group"]) & set(study.target_test["group"]):
        print(
            "warning: groups in the source's training part and in the target's test part: "
            f"{', '.join(sorted(shared)[:3])} ({len(shared)} in all). If they are the same "
            "patients, the figures are too good: give both one split.",
            file=sys.stderr,
        )


def _read_domains(flags):
    """Source cases, target cases and the task of each, from whichever flags name them."""
    check_data_flags(flags)
    if flags.source_dataset:
        classes = flags.classes if flags.classes != type(flags).classes else None
        own = flags.source_dataset, flags.source_root
        other = flags.target_dataset or own[0], flags.target_root or own[1]
        source, task = _dataset(*own, flags.source_domain, classes)
        target, target_task = _dataset(*other, flags.target_domain, classes)
        there, here = ((t.classes, t.overlapping) for t in (task, target_task))
        if there != here:
            raise ValueError(
                f"source has (classes, overlapping) {there}, target {here}; expected the same."
            )
        return source, target, task, target_task
    table, names = flags.cases, (flags.source_domain, flags.target_domain)
    if not table:
        count = 12 if flags.smoke else 72
        table = drawn(write_fundus, flags.out, count, 256, flags.seed)
        names = ("camera_a", "camera_b")
    cases = read_cases(table)
    source, target = (_domain(cases, name, table) for name in names)
    task = _task(flags.classes, source)
    return source, target, task, task


def check_data_flags(flags):
    """Refuses flags that name no data, half of them, or data twice."""
    by_table = [flags.cases]
    by_name = [flags.source_dataset, flags.source_root, flags.target_dataset, flags.target_root]
    if any(by_table) and any(by_name):
        raise ValueError(
            "Received both --cases and --source-dataset/--target-dataset; expected one of them."
        )
    domains = flags.source_domain, flags.target_domain
    if any(domains) and not any(by_table + by_name):
        raise ValueError(
            "--source-domain and --target-domain need data: --cases, or --source-dataset and "
            "--source-root."
        )
    two_of_one = all(by_name[:2]) and not any(by_name[2:]) and all(domains)
    if any(by_name) and not (all(by_name) or two_of_one):
        raise ValueError(
            "Expected --source-dataset, --source-root, --target-dataset and --target-root "
            "together; the last two may be left out where --source-domain and --target-domain are "
            "two of one data set."
        )
    if flags.cases and not (flags.source_domain and flags.target_domain):
        raise ValueError("--cases needs --source-domain and --target-domain.")


def _task(classes, cases):
    """The task of --classes, in the unit of the images."""
    values = {}
    for text in classes:
        name, _, numbers = text.partition("=")
        try:
            values[name] = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            raise ValueError(
                f"--classes: received {text!r}, expected name=value,value such as disc=128,255."
            ) from None
    counts = [v for numbers in values.values() for v in numbers]
    overlapping = len(set(counts)) < len(counts)
    unit = "mm" if is_volume(cases["image"].iloc[0]) else "px"
    return Task(classes=tuple(values), overlapping=overlapping, values=values, unit=unit)


def _domain(cases, name, where):
    found = cases[cases["domain"] == name]
    if not len(found):
        raise ValueError(
            f"{where}: no case of domain {name!r}; there are {sorted(cases['domain'].unique())}."
        )
    return found


def _dataset(name, root, domain, classes):
    """Cases and task of a data set; --classes, where it was given, is that of plain folders."""
    cases, task = getattr(catalog, name)(root)
    if classes:
        if name != "folders":
            raise ValueError(f"--classes is for --cases and folders; {name} has {task.classes}.")
        task = _task(classes, cases)
    return (_domain(cases, domain, root) if domain else cases), task
