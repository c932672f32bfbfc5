"""The one way an experiment runs: its stages in order, then evaluation and report."""

import json
import shutil
import sys
import time
from dataclasses import replace

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from keras_meduda.data.files import existing
from keras_meduda.data.io import replacing
from keras_meduda.data.parts import read_parts, seen, write_parts
from keras_meduda.data.pipeline import Batches, add_teacher, prepare
from keras_meduda.evaluation.validation import mean_dice
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.forecast import disk_forecast, memory_forecast, window_forecast
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe, Stage
from keras_meduda.experiment.results import evaluate_runs
from keras_meduda.experiment.shares import write_shares
from keras_meduda.experiment.styles import Styles
from keras_meduda.experiment.teaching import taught_by
from keras_meduda.models.saved import load_network
from keras_meduda.run import Run, load
from keras_meduda.run.distribution import is_chief, lost_worker_explained, strategy, total
from keras_meduda.run.scope import setup
from keras_meduda.run.training import fit


def run(recipe: Recipe, data: Data, options: Options, store=None) -> dict[str, Run]:
    """Trains the stages of a recipe in their order, scores every network and writes the report.

    What gets deployed lies in the run folder itself, every other stage in a folder of its name
    below it. Called again, each stage goes on where it stopped.

    Args:
        recipe: what is trained.
        data: on which cases.
        options: folder, seed, precision and strategy.
        store: folder of prepared images, which several experiments may share. Default: in the run
            folder.

    Returns:
        The runs by name, those of `recipe.given` first.

    Raises:
        ValueError: a given run of other classes, preprocessing or network; a part of the data that
            a stage uses and that is not there; a run folder that cannot go on.

    Example:
        >>> from keras_meduda.recipes import oct
        >>> flags = oct.Flags(smoke=True, out=getfixture("tmp_path") / "run")
        >>> data = oct.data(flags)
        >>> sorted(run(oct.recipe(flags, data), data, flags))  # doctest: +ELLIPSIS
        ┏...
        ['trained']
    """
    began = time.perf_counter()
    stages = _Stages(recipe, data, options, store)
    announce(recipe, data, options)
    runs = stages.train_all()
    if is_chief(stages.replicas):  # one worker evaluates and writes
        evaluate_runs(recipe, data, options, runs, stages.targets, stages.styles, began)
    return runs


def train(recipe: Recipe, data: Data, options: Options, store=None) -> dict[str, Run]:
    """Trains the stages of a recipe as `run` does, without scores and report.

    Args:
        recipe: what is trained.
        data: on which cases.
        options: folder, seed, precision and strategy.
        store: as in `run`.

    Returns:
        The runs by name, those of `recipe.given` first.
    """
    return _Stages(recipe, data, options, store).train_all()


def announce(recipe: Recipe, data: Data, options: Options) -> None:
    """Prints cases, groups, disk, memory and what windows take, before anything is written.

    Raises:
        ValueError: the run needs more disk than there is.
    """
    table = Table("part", *(Column(name, justify="right") for name in ("cases", "groups")))
    table.add_column("labels used for")
    for row in data.table:
        table.add_row(*map(str, row.values()))
    given = next(iter(recipe.given.values()), None)
    network = given.network if given else recipe.build(data.task)
    prepared, kept = disk_forecast(recipe, data, network)
    memory = memory_forecast(recipe, network)
    free = shutil.disk_usage(existing(options.out)).free
    console = Console()
    console.print(table)
    console.print(
        f"{network.name}: {network.count_params():,} parameters; {recipe.steps} steps of "
        f"{recipe.batch_size} a domain\n"
        f"disk: {decimal(prepared)} of prepared data, about {decimal(kept)} of networks, "
        f"checkpoints and report ({decimal(free)} free); memory: about {decimal(memory)}",
        highlight=False,
    )
    if forecast := window_forecast(recipe, data, network):
        console.print(forecast, highlight=False)
    if prepared + kept > free:
        raise ValueError(
            f"{options.out}: the run needs about {decimal(prepared + kept)}, {decimal(free)} are "
            "free."
        )


class _Stages:
    """What the stages of one experiment share."""

    def __init__(self, recipe, data, options, store=None):
        for given in recipe.given.values():
            _check_given(given, recipe, data)
        _check_parts(recipe, data)
        self.recipe, self.data, self.options = recipe, data, options
        self.store, self.targets = store or options.out / "prepared", None
        self.styles = Styles(self.store, options.seed)
        self.replicas = strategy(options.strategy)
        self.first = self.folder(next(iter(recipe.stages), "")) / "first.keras"

    def folder(self, name):
        return self.options.out / ("" if name == self.recipe.deployed else name)

    def train_all(self) -> dict[str, Run]:
        """The stages in their order."""
        # They read masks as this study encodes them, whatever the values of their own were.
        runs = {n: replace(given, task=self.data.task) for n, given in self.recipe.given.items()}
        for name, stage in self.recipe.stages.items():
            runs[name] = self.train(name, stage, runs)
        return runs

    def train(self, name, stage: Stage, runs) -> Run:
        """One training."""
        recipe, options, task = self.recipe, self.options, self.data.task
        folder, steps = self.folder(name), self.steps(name, stage)
        Console().print(
            f"{name.replace('_', ' ')} → {folder}", style="bold", highlight=False, soft_wrap=True
        )
        if "taught" in stage.uses and self.targets is None:
            self.teach(runs)
        with setup(options.strategy, options.precision, options.seed):
            network = self.network(name, stage, runs)
            if stage.prepare:  # a checkpoint that does not fit is refused before data are prepared
                stage.prepare(network)
            batches = self.batches(stage, runs.get(stage.start))
            method = stage.method(network, batches)
            stage.compile(method, steps)
        validation = {}
        if stage.keep:
            cases = self.data.parts["validation"]
            window = recipe.window and recipe.window.apart  # a choice needs no overlap
            watched = mean_dice(cases, task, recipe.preprocessing, window)
            validation = {"validation": watched, **stage.keep}
        run = fit(
            method, batches, steps=steps, run_dir=folder, resume=options.resume,
            window=recipe.window, **validation,
        )  # fmt: skip
        if is_chief(self.replicas):
            if stage.labelled:
                write_shares(run, self.data.parts[stage.labelled], task)
            before = runs.get(stage.start)
            write_parts(run.path, self.used(stage), self.data.tests, before and before.path)
        return run

    def steps(self, name, stage) -> int:
        """Updates of a stage; one from which a later stage has begun is not extended any more."""
        steps, folder = stage.steps or self.recipe.steps, self.folder(name)
        if not (self.options.resume and (folder / "network.keras").exists()):
            return steps
        done = json.loads((folder / "config.json").read_text())["steps"]
        names = list(self.recipe.stages)
        for later in names[names.index(name) + 1 :]:
            uses = self.recipe.stages[later]
            if done < steps and (self.folder(later) / "config.json").exists():
                if uses.start == name or "taught" in uses.uses:
                    print(f"{name} keeps its {done:,} steps: {later} has begun from it")
                    return done
        return steps

    def used(self, stage):
        """The parts of the data that train a stage or choose its weights."""
        names = {"target" if part == "taught" else part for part in stage.uses}
        names |= {"validation"} if stage.keep else set()
        return {name: cases for name, cases in self.data.parts.items() if name in names}

    def network(self, name, stage, runs):
        """The network of a stage with its first weights."""
        if stage.start == "first":
            network = load_network(self.first)
            network.start = runs[next(iter(self.recipe.stages))].network.start
            return network
        if stage.start != "fresh":
            run = runs[stage.start]
            given = stage.start in self.recipe.given  # else it has the precision already
            return load(run.path, self.options.precision if given else None, trained=True).network
        network = self.recipe.build(self.data.task)
        later = any(stage.start == "first" for stage in self.recipe.stages.values())
        if later and self.first.parent == self.folder(name):
            there = self.options.resume and self.first.exists()
            if is_chief(self.replicas) and not there:
                with replacing(self.first) as unfinished:
                    network.save(unfinished)
        return network

    def teach(self, runs):
        """Makes the teacher's targets: one of several workers does, the others wait."""
        with lost_worker_explained(self.replicas, self.options.out):
            chief = is_chief(self.replicas)
            self.targets = self.recipe.teacher(self.data, self.options, runs, chief)
            total(self.replicas, 1)

    def batches(self, stage, start: Run | None = None) -> Batches:
        """The training batches of a stage; the run that it starts from judges its twins."""
        recipe, parts = self.recipe, self.data.parts
        source = target = None
        if stage.labelled:
            source = self.prepare(parts[stage.labelled], labels=True)
        trained = "target" in stage.uses or "taught" in stage.uses
        if trained or stage.source_styles:
            target = self.prepare(parts["target"], labels=False)
        self.warn_of_other_cases(source)
        styled, plain = target if trained else None, source
        if stage.target_styles:
            twins = stage.target_styles, stage.by_bands
            if stage.choose_view:
                groups = parts["target"]["group"]
                styled = self.styles.of_target(start, target, plain, groups, *twins)
            else:
                styled = self.styles.add(target, plain, *twins)
        if stage.source_styles:
            twins = stage.source_styles, stage.by_bands
            if start:
                source = self.styles.of_source(start, plain, target, *twins)
            else:
                source = self.styles.add(plain, target, *twins)
        if "taught" in stage.uses:
            if isinstance(self.targets, Run):
                styled = taught_by(target, self.targets, self.store)
            else:
                styled = add_teacher(target, parts["target"], self.targets, self.store)
            print(f"the teacher's targets: {len(styled.images)} of {len(parts['target'])} cases")
        settings = {**recipe.batches, **stage.batches}
        return Batches(
            recipe.batch_size, self.options.seed, source=source, target=styled, **settings
        )

    def prepare(self, cases, labels):
        """Cases on the network's grid."""
        return prepare(cases, self.data.task, self.recipe.preprocessing, self.store, labels)

    def warn_of_other_cases(self, source):
        """What is tested here may have trained a given network that had another split."""
        if source is None or not len(self.data.tests.get("source, test", ())):
            return
        for given in self.recipe.given.values():
            if read_parts(given.path) is not None:  # which tells case by case
                for cases in self.data.tests.values():
                    for line in seen(cases, given.path, f"--init {given.path}"):
                        print(f"warning: {line}", file=sys.stderr)
                continue
            trained = json.loads((given.path / "config.json").read_text()).get("data") or {}
            there, now = trained.get("source"), source.fingerprint
            if there != now:
                print(
                    f"warning: --init {given.path} has not trained on this study's source cases "
                    f"({there} there, {now} now). Cases of the source's test part may have trained "
                    "it: its figures on the source may be too good.",
                    file=sys.stderr,
                )


def _check_parts(recipe, data):
    """Refuses a stage that uses what the data do not have."""
    for name, stage in recipe.stages.items():
        wanted = {"target" if part == "taught" else part for part in stage.uses}
        wanted |= {"target"} if stage.source_styles else set()
        wanted |= {"validation"} if stage.keep else set()
        if missing := wanted - set(data.parts):
            raise ValueError(
                f"stage {name!r} uses {sorted(missing)}; the data have {sorted(data.parts)}."
            )


def _check_given(run, recipe, data):
    """Refuses a network that was trained for something else; warns of other cases."""
    there, here = ((t.classes, t.overlapping) for t in (run.task, data.task))
    pairs = {"classes": (there, here), "preprocessing": (run.preprocessing, recipe.preprocessing)}
    for name, (there, now) in pairs.items():
        if there != now:
            raise ValueError(f"--init {run.path}: {name} {there}, expected {now} as in this study.")
    if recipe.network:
        network = recipe.build(data.task)
        there, now = (sorted(tuple(w.shape) for w in n.weights) for n in (run.network, network))
        if there != now:
            raise ValueError(
                f"--init {run.path}: a network of {run.network.count_params():,} parameters, "
                f"expected {network.count_params():,} as these flags make; give those of its "
                "network, such as --filters or --backbone."
            )
