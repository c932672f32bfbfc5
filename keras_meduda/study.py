"""A domain adaptation study: which cases take which part, and the order of its stages.

Source only → adapted → oracle (on request) → evaluation, or a label-free page where the target has
no labels.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from keras_meduda.data import catalog
from keras_meduda.data.augment import Photometry
from keras_meduda.data.cases import read_cases, split_cases, validate, without_masks
from keras_meduda.data.io import DataError, read_mask
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.data.pipeline import Batches, add_styles, prepare, prepared_bytes
from keras_meduda.evaluation.predict import evaluate
from keras_meduda.evaluation.report import (
    compare,
    write_evaluation,
    write_label_free_page,
    write_overlays,
)
from keras_meduda.methods import Supervised
from keras_meduda.task import Task
from keras_meduda.training import fit, load, setup


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
    def labelled(self) -> bool:
        """Whether every test case of the target has a mask."""
        return len(self.target_test) > 0 and (self.target_test["mask"] != "").all()


def read_study(flags) -> Study:
    """Reads the case tables, looks at every file and prints what there is."""
    source, target, task, target_task = _read_domains(flags)
    source, target = (
        table
        if (table["split"] != "").all()
        else split_cases(table, {"train": 0.8, "test": 0.2}, seed=flags.seed)
        for table in (source, target)
    )
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
    labelled = pd.concat([study.source, study.source_test])
    problems = validate(labelled, task, read_masks=[True] * len(labelled), channels=3)
    target = oracle if flags.oracle else study.target
    problems += validate(pd.concat([target, study.target_test]), target_task, channels=3)
    for problem in problems:
        if problem.severity == "warning":
            print(problem, file=sys.stderr)
    if errors := [p for p in problems if p.severity == "error"]:
        raise DataError(*errors)
    return study


def _read_domains(flags):
    """Source cases, target cases and the task of each, from whichever flags name them."""
    _check_data_flags(flags)
    if flags.source_dataset:
        source, task = _dataset(flags.source_dataset, flags.source_root, flags.source_domain)
        target, target_task = _dataset(flags.target_dataset, flags.target_root, flags.target_domain)
        if target_task.classes != task.classes:
            raise ValueError(
                f"source has the classes {task.classes}, target {target_task.classes}."
            )
        return source, target, task, target_task
    table, names = flags.cases, (flags.source_domain, flags.target_domain)
    if not table:
        table, names = flags.out / "phantoms" / "cases.csv", ("camera_a", "camera_b")
        if not table.exists():
            count = 12 if flags.smoke else 72
            write_fundus(table.parent, cases_per_domain=count, seed=flags.seed)
    cases, task = read_cases(table), _task(flags.classes)
    return *(_domain(cases, name, table) for name in names), task, task


def announce(study: Study, preprocessing, network, flags, styles: int) -> None:
    """Prints cases, groups, disk and memory before anything is written."""
    table = Table("part", "cases", "groups", "labels used for", title=None)
    for name, part, use in [
        ("source, train", study.source, "training"),
        ("source, test", study.source_test, "evaluation"),
        ("target, train", study.target, "nothing"),
        ("target, test", study.target_test, "evaluation" if study.labelled else "– (none there)"),
        ("target, train", study.oracle, "oracle"),
    ]:
        if len(part):
            table.add_row(name, str(len(part)), str(part["group"].nunique()), use)
    disk = prepared_bytes(study.source, preprocessing, styles if flags.augment_source else 0)
    disk += prepared_bytes(study.target, preprocessing, styles)
    weights = network.count_params()
    values = sum(_size(layer.output) for layer in _layers(network))
    memory = 4 * (5 * weights + 3 * 2 * flags.batch_size * values)
    free = shutil.disk_usage(_existing(flags.out)).free
    console = Console()
    console.print(table)
    console.print(
        f"{network.name}: {weights:,} parameters; {flags.steps} steps of "
        f"{flags.batch_size} a domain; prepared data {_gb(disk)} on disk ({_gb(free)} "
        f"free); memory about {_gb(memory + 1e9)}",
        highlight=False,
    )
    if disk > free:
        raise ValueError(f"{flags.out}: the prepared data need {_gb(disk)}, {_gb(free)} are free.")


def _layers(network):
    """The layers of a network and of the networks in it."""
    for layer in network.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else [layer]


def _size(outputs):
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    return sum(int(np.prod(o.shape[1:])) for o in outputs if None not in o.shape[1:])


def _gb(count):
    return f"{count / 1e9:.2f} GB"


def _existing(path):
    path = Path(path).resolve()
    return path if path.exists() else _existing(path.parent)


def _check_data_flags(flags):
    by_table = [flags.cases]
    by_name = [flags.source_dataset, flags.source_root, flags.target_dataset, flags.target_root]
    if any(by_table) and any(by_name):
        raise ValueError(
            "Received both --cases and --source-dataset/--target-dataset; expected one of them."
        )
    if any(by_name) and not all(by_name):
        raise ValueError(
            "Expected --source-dataset, --source-root, --target-dataset and --target-root together."
        )
    if flags.cases and not (flags.source_domain and flags.target_domain):
        raise ValueError("--cases needs --source-domain and --target-domain.")


def _task(classes):
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
    return Task(classes=tuple(values), overlapping=len(set(counts)) < len(counts), values=values)


def _domain(cases, name, where):
    found = cases[cases["domain"] == name]
    if not len(found):
        raise ValueError(
            f"{where}: no case of domain {name!r}; there are {sorted(cases['domain'].unique())}."
        )
    return found


def _dataset(name, root, domain):
    cases, task = getattr(catalog, name)(root)
    return (_domain(cases, domain, root) if domain else cases), task


def compile_with_adam(method, learning_rate: float, steps: int) -> None:
    """Adam, whose learning rate falls to zero as a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    method.compile(keras.optimizers.Adam(schedule))


def run_study(
    study: Study,
    flags,
    preprocessing,
    build_network,
    build_method,
    styles: int = 0,
    compile_method=compile_with_adam,
    batches: dict | None = None,
):
    """Trains source only, adapts, trains the oracle on request, evaluates, and prints one table.

    Args:
        study: the cases.
        flags: the script's flags.
        preprocessing: the network's grid and range.
        build_network: function without arguments that builds the network.
        build_method: function from the trained network to the method that adapts it.
        styles: style twins of each target image, 0 for a method that needs none.
        compile_method: function of a method, its learning rate and the number of steps that gives
            the method its optimisers. Default Adam with a cosine.
        batches: settings of `Batches` for every stage, such as the augmentation. Default its own.

    Returns:
        The adapted run.
    """
    runs = {"source_only": load(flags.init)} if flags.init else {}
    steps = 12 if flags.smoke else flags.steps
    store, rate = flags.out / "prepared", flags.learning_rate
    source = prepare(study.source, study.task, preprocessing, store, labels=True)

    def train(name, folder, build, learning_rate, **halves):
        Console().print(f"[bold]{name}[/bold] → {folder}", highlight=False)
        with setup(flags.strategy, flags.precision, flags.seed):
            method = build()
            compile_method(method, learning_rate, steps)
        data = Batches(flags.batch_size, flags.seed, **{**(batches or {}), **halves})
        return fit(method, data, steps=steps, run_dir=folder, resume=flags.resume)

    def supervised():
        return Supervised(build_network(), study.task.overlapping)

    def adapting():
        return build_method(load(runs["source_only"].path).network)

    if not flags.init:
        folder = flags.out / "source_only"
        runs["source_only"] = train("source only", folder, supervised, rate, source=source)
    target = prepare(study.target, study.target_task, preprocessing, store, labels=False)
    halves = {"source": source, "target": target}
    if styles:
        halves["target"] = add_styles(target, source, store, styles, seed=flags.seed)
    if flags.augment_source:
        halves["source"] = add_styles(source, target, store, max(styles, 1), seed=flags.seed)
        halves["source_photometry"] = Photometry()
    runs["adapted"] = train("adapted", flags.out, adapting, flags.adapt_learning_rate, **halves)
    if flags.oracle:
        labelled = prepare(study.oracle, study.target_task, preprocessing, store, labels=True)
        runs["oracle"] = train("oracle", flags.out / "oracle", supervised, rate, source=labelled)
    if study.labelled:
        _evaluate(study, flags, runs)
    else:
        labels = [read_mask(cell, study.task) for cell in study.source["mask"]]
        cases = study.target_test if len(study.target_test) else study.target
        page = write_label_free_page(flags.out, runs["source_only"], runs["adapted"], cases, labels)
        Console().print(
            "The target has no labels, so no accuracy can be given. What the adaptation "
            f"changed: {page}",
            highlight=False,
        )
    return runs["adapted"]


def _evaluate(study, flags, runs):
    """Scores every run on the target's test cases, and the first two on the source's as well."""
    frames = {
        name: evaluate(run, study.target_test, study.target_task) for name, run in runs.items()
    }
    for name, frame in frames.items():
        write_evaluation(flags.out, name, frame)
    if len(study.source_test):
        for name in ("source_only", "adapted"):
            frame = evaluate(runs[name], study.source_test, study.task)
            write_evaluation(flags.out, f"{name}_on_source", frame)
    pictures = write_overlays(
        flags.out, runs, study.target_test, study.target_task, frames["adapted"]
    )
    print_comparison(compare(flags.out, frames), frames["adapted"], study.task.unit)
    Console().print(f"pictures: {', '.join(str(p) for p in pictures)}", highlight=False)


def print_comparison(comparison: dict, adapted: pd.DataFrame, unit: str) -> None:
    """One table: Dice of every run on the target's test cases, and the gap closed."""
    names = list(comparison["mean"]["dice"])
    cases, groups = adapted["case"].nunique(), adapted["group"].nunique()
    table = Table(
        "Dice, %",
        *(name.replace("_", " ") for name in names),
        "gap closed",
        "p",
        title=f"target test: {cases} cases of {groups} groups",
    )
    for row, result in comparison.items():
        closed, p = result["gap_closed"], result["adapted_vs_source_only"]["p_value"]
        table.add_row(
            row,
            *(f"{100 * result['dice'][name]:.1f}" for name in names),
            "–" if closed is None else f"{100 * closed:.0f} %",
            "–" if p is None else f"{p:.2g}",
        )
    Console().print(table)
    Console().print(
        "p: Wilcoxon signed-rank test of adapted against source only, on group means. "
        f"HD95 (MedPy's definition, {unit}), ASSD and areas per case: evaluation/",
        highlight=False,
    )
