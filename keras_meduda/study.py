"""A domain adaptation study: which cases take which part, and the order of its stages.

Source only → adapted → oracle (on request) → evaluation and report; a report without accuracies
where the target has no labels.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from keras_meduda.data import catalog
from keras_meduda.data.augment import Intensity, Photometry
from keras_meduda.data.cases import read_cases, split_or_given, without_masks
from keras_meduda.data.checks import checked
from keras_meduda.data.io import DataError, Problem, is_volume
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.data.pipeline import Batches, add_styles, prepare, prepared_bytes
from keras_meduda.distribution import is_chief, strategy
from keras_meduda.evaluation.label_free import label_free, reference_shares, suspicious
from keras_meduda.evaluation.predict import evaluate
from keras_meduda.evaluation.report import (
    about_run,
    about_session,
    compare,
    print_comparison,
    score,
    write_evaluation,
    write_label_free_report,
    write_report,
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
    def scored(self) -> pd.DataFrame:
        """The test cases of the target that have a mask."""
        return self.target_test[self.target_test["mask"] != ""]

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
    shares = {"train": 0.8, "test": 0.2}
    source, target = (split_or_given(table, shares, flags.seed) for table in (source, target))
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
    channels = 1 if is_volume(source["image"].iloc[0]) else 3
    checked(labelled, task, read_masks=[True] * len(labelled), channels=channels)
    target = oracle if flags.oracle else study.target
    checked(pd.concat([target, study.target_test]), target_task, channels=channels)
    return study


def _check_parts(study, source, target):
    """Refuses a study without training cases; warns of patients that train and are tested."""
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
    if shared := set(study.source["group"]) & set(study.target_test["group"]):
        print(
            "warning: groups in the source's training part and in the target's test part: "
            f"{', '.join(sorted(shared)[:3])} ({len(shared)} in all). If they are the same "
            "patients, the figures are too good: give both one split.",
            file=sys.stderr,
        )


def _read_domains(flags):
    """Source cases, target cases and the task of each, from whichever flags name them."""
    _check_data_flags(flags)
    if flags.source_dataset:
        source, task = _dataset(flags.source_dataset, flags.source_root, flags.source_domain)
        other = flags.target_dataset or flags.source_dataset, flags.target_root or flags.source_root
        target, target_task = _dataset(*other, flags.target_domain)
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
    cases = read_cases(table)
    task = _task(flags.classes, "mm" if is_volume(cases["image"].iloc[0]) else "px")
    return *(_domain(cases, name, table) for name in names), task, task


def announce(study: Study, preprocessing, network, flags, styles: int) -> None:
    """Prints cases, groups, disk and memory before anything is written."""
    table = Table("part", *(Column(name, justify="right") for name in ("cases", "groups")))
    table.add_column("labels used for")
    for row in study.parts:
        table.add_row(*map(str, row.values()))
    twins = max(styles, 1) if flags.augment_source else 0
    disk = prepared_bytes(study.source, preprocessing, twins)
    disk += prepared_bytes(study.target, preprocessing, styles)
    weights = network.count_params()
    values = sum(_size(layer.output) for layer in _layers(network))
    memory = 4 * (5 * weights + 3 * 2 * flags.batch_size * values)
    free = shutil.disk_usage(_existing(flags.out)).free
    console = Console()
    console.print(table)
    console.print(
        f"{network.name}: {weights:,} parameters; {_steps(flags)} steps of {flags.batch_size} "
        "a domain\n"
        f"prepared data: {decimal(disk)} on disk ({decimal(free)} free); "
        f"memory: about {decimal(int(memory + 1e9))}",
        highlight=False,
    )
    if disk > free:
        raise ValueError(
            f"{flags.out}: the prepared data need {decimal(disk)}, {decimal(free)} are free."
        )


def _layers(network):
    """The layers of a network and of the networks in it."""
    for layer in network.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else [layer]


def _size(outputs):
    outputs = outputs.values() if isinstance(outputs, dict) else [outputs]
    return sum(int(np.prod(o.shape[1:])) for o in outputs if None not in o.shape[1:])


def _steps(flags):
    return 12 if flags.smoke else flags.steps


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
    domains = flags.source_domain, flags.target_domain
    two_of_one = all(by_name[:2]) and not any(by_name[2:]) and all(domains)
    if any(by_name) and not (all(by_name) or two_of_one):
        raise ValueError(
            "Expected --source-dataset, --source-root, --target-dataset and --target-root "
            "together; the last two may be left out where --source-domain and --target-domain are "
            "two of one data set."
        )
    if flags.cases and not (flags.source_domain and flags.target_domain):
        raise ValueError("--cases needs --source-domain and --target-domain.")


def _task(classes, unit):
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
    return Task(classes=tuple(values), overlapping=overlapping, values=values, unit=unit)


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
    window=None,
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
        window: `km.SlidingWindow` in which a network that trains on patches predicts.

    Returns:
        The adapted run.

    Raises:
        ValueError: `flags.init` names a run of other classes, or with another preprocessing.
    """
    began = time.perf_counter()
    runs = {"source_only": load(flags.init)} if flags.init else {}
    for run in runs.values():
        _check_init(run, study.task, preprocessing)
    steps = _steps(flags)
    store, rate = flags.out / "prepared", flags.learning_rate
    source = prepare(study.source, study.task, preprocessing, store, labels=True)

    def train(name, folder, build, learning_rate, **halves):
        _say(f"{name} → {folder}", bold=True)
        with setup(flags.strategy, flags.precision, flags.seed):
            method = build()
            compile_method(method, learning_rate, steps)
        data = Batches(flags.batch_size, flags.seed, **{**(batches or {}), **halves})
        return fit(method, data, steps=steps, run_dir=folder, resume=flags.resume, window=window)

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
        halves["source_photometry"] = Intensity() if preprocessing.zscored else Photometry()
    runs["adapted"] = train("adapted", flags.out, adapting, flags.adapt_learning_rate, **halves)
    if flags.oracle:
        labelled = prepare(study.oracle, study.target_task, preprocessing, store, labels=True)
        runs["oracle"] = train("oracle", flags.out / "oracle", supervised, rate, source=labelled)
    if not is_chief(strategy(flags.strategy)):
        return runs["adapted"]  # one worker evaluates and writes
    if len(study.scored):
        _evaluate(study, flags, runs, began)
    else:
        cases = study.target_test if len(study.target_test) else study.target
        frame = label_free({name: runs[name] for name in ("source_only", "adapted")}, cases)
        shares = reference_shares(study.source, study.task)
        write_label_free_report(
            title=f"Adaptation without target labels: {_route(study)}",
            frame=frame,
            cases=cases,
            source_shares=shares,
            **_about(study, flags, runs, began),
        )
        _say("The target has no labels, so no accuracy can be given.")
        for line in suspicious(frame, shares):
            _say(f"look first: {line}")
    _say(f"report: {flags.out / 'report.html'}")
    return runs["adapted"]


def _check_init(run, task, preprocessing):
    """Refuses to adapt a network that was trained for something else."""
    classes = (run.task.classes, run.task.overlapping), (task.classes, task.overlapping)
    grid = run.preprocessing, preprocessing
    for name, (there, now) in {"classes": classes, "preprocessing": grid}.items():
        if there != now:
            raise ValueError(f"--init {run.path}: {name} {there}, expected {now} as in this study.")


def _evaluate(study, flags, runs, began):
    """Scores every run on the target's test cases, and the first two on the source's as well."""
    frames, calibration = {}, {}
    for name, run in runs.items():
        frames[name], calibration[name] = score(run, study.scored, study.target_task)
        write_evaluation(flags.out, name, frames[name])
    parts = {"target, test": frames}
    if len(study.source_test):
        parts["source, test"] = {
            name: evaluate(runs[name], study.source_test, study.task)
            for name in ("source_only", "adapted")
        }
        for name, frame in parts["source, test"].items():
            write_evaluation(flags.out, f"{name}_on_source", frame)
    comparison = compare(flags.out, frames)
    write_report(
        title=f"Adaptation: {_route(study)}",
        parts=parts,
        cases=study.scored,
        task=study.target_task,
        calibration=calibration,
        comparison=comparison,
        **_about(study, flags, runs, began),
    )
    print_comparison(comparison, frames["adapted"], study.task.unit)


def _about(study, flags, runs, began):
    """What every report of a study holds: where it goes, its runs and what was run."""
    oracle = " The oracle is trained on them: it is the upper end of the comparison, no more."
    trained = f"adapted (source only is {flags.init})" if flags.init else "source only and adapted"
    table = flags.cases or "phantoms of this library"
    data = f"{table}: {_route(study)}"
    if flags.source_dataset:
        data = f"{flags.source_dataset} in {flags.source_root} → " + (
            f"{flags.target_dataset} in {flags.target_root}"
            if flags.target_dataset
            else f"{flags.target_domain}, the same data set"
        )
    return {
        "path": flags.out / "report.html",
        "runs": runs,
        "trainings": {name.replace("_", " "): run.path for name, run in runs.items()},
        "data": study.parts,
        "facts": {
            "Data": data,
            "Target labels": "Labels of the target were not read in training or selection of "
            f"{trained}.{oracle if len(study.oracle) else ''}",
            **about_run(runs["adapted"]),
            **about_session(began),
        },
    }


def _route(study):
    domains = (", ".join(cases["domain"].unique()) for cases in (study.source, study.target))
    return " → ".join(domains)


def _say(text, bold=False):
    """One line that a terminal may break but we do not: paths stay whole when copied."""
    Console().print(
        text, style="bold" if bold else None, highlight=False, markup=False, soft_wrap=True
    )
