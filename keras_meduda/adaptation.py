"""The order of a domain adaptation: source only → adapted → oracle (on request) → evaluation.

It ends with a report, without accuracies where the target has no labels.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from keras_meduda.data.augment import Intensity, Photometry
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
from keras_meduda.study import Study
from keras_meduda.training import fit, load, setup

TWINS = 4  # of a source image in the target's histograms, where the method restyles no target


def announce(study: Study, preprocessing, network, flags, styles: int, views: int = 2) -> None:
    """Prints cases, groups, disk and memory before anything is written.

    `views` counts the batches that pass through the network in a step: source, target, …
    """
    table = Table("part", *(Column(name, justify="right") for name in ("cases", "groups")))
    table.add_column("labels used for")
    for row in study.parts:
        table.add_row(*map(str, row.values()))
    twins = (styles or TWINS) if flags.augment_source else 0
    disk = prepared_bytes(study.source, preprocessing, twins)
    disk += prepared_bytes(study.target, preprocessing, styles)
    weights = network.count_params()
    values = sum(_size(layer.output) for layer in _layers(network))
    memory = 4 * (5 * weights + 3 * views * flags.batch_size * values)
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
    supervised=Supervised,
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
        supervised: function from a network, and whether classes overlap, to the method that trains
            source only and the oracle. Default `Supervised`.

    Returns:
        The adapted run.

    Raises:
        ValueError: `flags.init` names a run of other classes, preprocessing or network.
    """
    began = time.perf_counter()
    runs = {"source_only": load(flags.init)} if flags.init else {}
    for run in runs.values():
        _check_init(run, study.task, preprocessing, build_network())
    steps = _steps(flags)
    store, rate = flags.out / "prepared", flags.learning_rate
    source = prepare(study.source, study.task, preprocessing, store, labels=True)
    if flags.init and len(study.source_test):
        _warn_of_other_cases(flags.init, source.fingerprint)

    def train(name, folder, build, learning_rate, **halves):
        _say(f"{name} → {folder}", bold=True)
        with setup(flags.strategy, flags.precision, flags.seed):
            method = build()
            compile_method(method, learning_rate, steps)
        data = Batches(flags.batch_size, flags.seed, **{**(batches or {}), **halves})
        return fit(method, data, steps=steps, run_dir=folder, resume=flags.resume, window=window)

    def labelled_only():
        return supervised(build_network(), study.task.overlapping)

    def adapting():
        precision = flags.precision if flags.init else None  # what was trained here has it
        return build_method(load(runs["source_only"].path, precision).network)

    if not flags.init:
        folder = flags.out / "source_only"
        runs["source_only"] = train("source only", folder, labelled_only, rate, source=source)
    target = prepare(study.target, study.target_task, preprocessing, store, labels=False)
    halves = {"source": source, "target": target}
    if styles:
        halves["target"] = add_styles(target, source, store, styles, seed=flags.seed)
    if flags.augment_source:
        halves["source"] = add_styles(source, target, store, styles or TWINS, seed=flags.seed)
        halves["source_photometry"] = Intensity() if preprocessing.zscored else Photometry()
    runs["adapted"] = train("adapted", flags.out, adapting, flags.adapt_learning_rate, **halves)
    if flags.oracle:
        labelled = prepare(study.oracle, study.target_task, preprocessing, store, labels=True)
        runs["oracle"] = train("oracle", flags.out / "oracle", labelled_only, rate, source=labelled)
    if not is_chief(strategy(flags.strategy)):
        return runs["adapted"]  # one worker evaluates and writes
    if len(study.scored):
        _evaluate(study, flags, runs, began)
    else:
        cases = study.target_test if len(study.target_test) else study.target
        frame = label_free({name: runs[name] for name in ("source_only", "adapted")}, cases)
        shares = reference_shares(study.source, study.task)
        write_label_free_report(
            title=f"Adaptation without target labels: {study.route}",
            frame=frame,
            cases=cases,
            source_shares=shares,
            **_about(study, flags, runs, began),
        )
        missing = "labels in its test part" if len(study.target_test) else "test cases"
        _say(f"The target has no {missing}, so no accuracy can be given.")
        for line in suspicious(frame, shares):
            _say(f"look first: {line}")
    _say(f"report: {flags.out / 'report.html'}")
    return runs["adapted"]


def _check_init(run, task, preprocessing, network):
    """Refuses to adapt a network that was trained for something else."""
    classes = (run.task.classes, run.task.overlapping), (task.classes, task.overlapping)
    grid = run.preprocessing, preprocessing
    for name, (there, now) in {"classes": classes, "preprocessing": grid}.items():
        if there != now:
            raise ValueError(f"--init {run.path}: {name} {there}, expected {now} as in this study.")
    there, now = (sorted(tuple(w.shape) for w in n.weights) for n in (run.network, network))
    if there != now:
        raise ValueError(
            f"--init {run.path}: a network of {run.network.count_params():,} parameters, expected "
            f"{network.count_params():,} as these flags make; give those of its network, such as "
            "--filters or --backbone."
        )


def _warn_of_other_cases(path, fingerprint):
    """What is tested here may have trained a network that another split, or study, has left."""
    there = (json.loads((path / "config.json").read_text()).get("data") or {}).get("source")
    if there != fingerprint:
        print(
            f"warning: --init {path} has not trained on this study's source cases ({there} there, "
            f"{fingerprint} now). Cases of the source's test part may have trained it: its figures "
            "on the source may be too good.",
            file=sys.stderr,
        )


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
        title=f"Adaptation: {study.route}",
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
    data = f"{table}: {study.route}"
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


def _say(text, bold=False):
    """One line that a terminal may break but we do not: paths stay whole when copied."""
    Console().print(
        text, style="bold" if bold else None, highlight=False, markup=False, soft_wrap=True
    )
