"""Cases of an experiment on two domains: who trains, who is tested, and that nothing leaks."""

import os
import sys

import pandas as pd

from keras_meduda.data.cases import (
    are_volumes,
    read_cases,
    split_cases,
    split_or_given,
    split_together,
    without_masks,
)
from keras_meduda.data.checks import check_parts
from keras_meduda.data.few import FEWEST_IMAGES, check_few
from keras_meduda.data.io import DataError, Problem, image_files
from keras_meduda.data.splits import in_folds
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.one_domain import of_dataset, of_domain, task_of
from keras_meduda.experiment.shift import TIDY_FUNDUS
from keras_meduda.run import settings_of


def read(flags, draw):
    """The cases of the flags, with every file looked at.

    Args:
        flags: which cases, classes and seed.
        draw: function without arguments that gives `(case table, source domain, target domain,
            classes)` of phantoms, for flags that name no data.

    Raises:
        DataError: all that is wrong with the cases and their files, of both domains.
        ValueError: flags that name no data, half of them or data twice, or domains without cases.
    """
    source, target, task, described = _domains(flags, draw)
    few = few_cases(flags.few, target)
    source, target = _split(source, target, few, flags)
    check_few_cases(flags.few, few, task, target)
    source = _held_out(source, flags.seed)
    oracle = target[target["split"] == "train"] if flags.oracle else target.iloc[:0]
    if (oracle["mask"] == "").any():
        raise ValueError(
            "--oracle trains on the target's labels, but "
            f"{(oracle['mask'] == '').sum()} of its {len(oracle)} training cases have "
            "none. Leave the flag out."
        )
    warn_of_few_images((target["split"] == "train").sum())
    route = " → ".join(", ".join(cases["domain"].unique()) for cases in (source, target))
    data = Data(
        task=task,
        parts={
            "source": source[source["split"] == "train"],
            "target": without_masks(target[target["split"] == "train"]),
            "oracle": oracle,
            "few_target": few,
        },
        tests={
            "target, test": target[target["split"] == "test"],
            "source, test": source[source["split"] == "test"],
        },
        described=described or f"{flags.cases or 'phantoms of this library'}: {route}",
        route=route,
    )
    _check_parts(data, source, target)
    labelled = pd.concat([data.parts["source"], data.tests["source, test"]])
    trained = data.parts.get("oracle", data.parts["target"])
    others = pd.concat([trained, data.tests["target, test"]])
    channels = 1 if are_volumes(source) else 3
    looked_at = [(labelled, [True] * len(labelled)), (others, None), (few, None)]
    check_parts(looked_at, task, channels, flags.nan_background)
    return data


def warn_of_few_images(count):
    """Says what becomes of a target with so few training images that nothing can be decided."""
    if count < FEWEST_IMAGES:
        print(
            f"the target has {count} training images. Below {FEWEST_IMAGES} nothing can be said of "
            "a network adapted to them, so source only will be kept; meduda predict "
            "--adapt-statistics needs no training.",
            file=sys.stderr,
        )


def few_cases(table, target):
    """The few labelled target cases of a table; none without one."""
    if not table:
        return target.iloc[:0]
    cases = read_cases(table).assign(domain=target["domain"].iloc[0], split="train")
    if "encoding" in target:
        cases["encoding"] = target["encoding"].iloc[0]
    return cases


def check_few_cases(table, few, task, target):
    """Refuses few labelled cases that cannot be used, before the training."""
    if not table:
        return
    try:
        check_few(few, task, target[target["split"] == "test"])
    except ValueError as error:
        raise ValueError(f"--few {table}: {str(error).removeprefix('few: ')}") from error


def _held_out(source, seed):
    """The source with a fifth of its patients held out, where the table tests none of them."""
    trains = source["split"] == "train"
    if (source["split"] == "test").any() or not trains.any():
        return source
    parts = split_cases(source[trains], {"train": 0.8, "test": 0.2}, seed)
    split = source["split"].where(~trains, parts["split"].reindex(source.index))
    if (held := (split == "test")).any():
        print(
            f"{held.sum()} source cases of {source['group'][held].nunique()} patients are held out "
            "from training: how far an adaptation goes is decided on them. Name cases of split "
            "'test' to choose them yourself.",
            file=sys.stderr,
        )
    else:
        raise ValueError(
            f"The {trains.sum()} source cases are of {source['group'][trains].nunique()} patients, "
            "too few to hold any out from training, and without one how far an adaptation goes "
            "cannot be decided; expected source cases of split 'test', or a column group with "
            "several patients."
        )
    return source.assign(split=split)


def _split(source, target, few, flags):
    """Both in train and test; a group that both have, such as a patient, is in one part alone.

    Where a split is drawn here, and not in folds, the patients of the few labelled cases train.
    """
    shares, seed = {"train": 0.8, "test": 0.2}, flags.seed
    if flags.folds:
        both = pd.concat([source, target], keys=["source", "target"])
        both = in_folds(both, flags.folds, flags.fold, seed)
        return both.loc["source"], both.loc["target"]
    both = pd.concat([source, target])
    drawn = [(cases["split"] == "").all() for cases in (source, target)]
    if all(drawn) and set(source["group"]) & set(target["group"]):
        parts = split_together(both, shares, seed)
        parts = parts[: len(source)], parts[len(source) :]
    else:
        parts = [split_or_given(cases, shares, seed) for cases in (source, target)]
    labelled = both["image"].map(os.path.realpath).isin(few["image"].map(os.path.realpath))
    train = {*few["group"], *both["group"][labelled]}  # a table of few cases may name no patient

    def with_few(cases):
        return cases.assign(split=cases["split"].mask(cases["group"].isin(train), "train"))

    return [with_few(c) if new else c for c, new in zip(parts, drawn, strict=True)]


def _check_parts(data, source, target):
    """Refuses data without training cases or of one domain twice; warns of what is unused."""
    both = {"source": source, "target": target}
    if empty := [
        Problem(
            "case table",
            f"no {name} case of split 'train' among {sorted(cases['split'].unique())}",
            "train, and test for those that are scored",
        )
        for name, cases in both.items()
        if name not in data.parts
    ]:
        raise DataError(*empty)
    files, others = (
        {os.path.realpath(file) for cell in cases["image"] for file in image_files(cell)}
        for cases in (source, target)
    )
    if twice := files & others:
        raise ValueError(
            f"{len(twice)} image files are in the source and in the target, such as {min(twice)}; "
            "expected two domains (--source-domain, --target-domain)."
        )
    for name, cases in both.items():
        unread = cases["split"][~cases["split"].isin(["train", "test"])]
        for split, count in unread.value_counts().items():
            print(
                f"warning: {count} {name} cases of split {split!r} are not used; expected 'train' "
                "or 'test'.",
                file=sys.stderr,
            )
    tested = target[target["split"] == "test"]
    if shared := set(data.parts["source"]["group"]) & set(tested["group"]):
        print(
            "warning: groups in the source's training part and in the target's test part: "
            f"{', '.join(sorted(shared)[:3])} ({len(shared)} in all). If they are the same "
            "patients, the figures are too good: give both one split.",
            file=sys.stderr,
        )


def _domains(flags, draw):
    """Source cases, target cases, the task, and where they come from if not from a table."""
    check(flags)
    if flags.source_dataset:
        own = flags.source_dataset, flags.source_root
        other = flags.target_dataset or own[0], flags.target_root or own[1]
        source, task = of_dataset(*own, flags.source_domain, flags)
        target, target_task = of_dataset(*other, flags.target_domain, flags)
        there, here = ((t.classes, t.overlapping) for t in (task, target_task))
        if there != here:
            raise ValueError(
                f"source has (classes, overlapping) {there}, target {here}; expected the same."
            )
        described = f"{own[0]} in {own[1]} → " + (
            f"{flags.target_dataset} in {flags.target_root}"
            if flags.target_dataset
            else f"{flags.target_domain}, the same data set"
        )
        return source, target.assign(encoding=target_task.encoding), task, described
    table, classes = flags.cases, flags.classes or TIDY_FUNDUS
    names = flags.source_domain, flags.target_domain
    if not table:
        table, *names, classes = draw()
    cases = read_cases(table)
    source, target = (of_domain(cases, name, table) for name in names)
    return source, target, task_of(classes, source, flags.tolerance), None


def check(flags):
    """Refuses flags that name no data, half of them, or data twice, and a start that is no run.

    Raises:
        ValueError: which were given and which were expected.
    """
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
    if flags.init:
        settings_of(flags.init)
    if flags.cases and not all(domains):
        raise ValueError("--cases needs --source-domain and --target-domain.")
