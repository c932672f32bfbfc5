"""The one training loop: set-up, checkpoints, resume, the run folder."""

import contextlib
import csv
import dataclasses
import functools
import json
import math
import os
import signal
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_meduda import (
    losses,
    models,  # noqa: F401 (registers the layers that saved networks name)
)
from keras_meduda.data.io import replacing
from keras_meduda.progress import StepBar
from keras_meduda.sliding import SlidingWindow, sliding_window
from keras_meduda.task import Preprocessing, Task, to_json

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


@contextlib.contextmanager
def setup(strategy: str = "none", precision: str = "float32", seed: int = 0):
    """Seeds, dtype policy and distribution scope for building and compiling a method.

    Args:
        strategy: `"none"`, `"mirrored"` (all GPUs of this machine) or `"multiworker"`
            (`TF_CONFIG`).
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        seed: of weights, dropout and everything else that is random.

    Example:
        >>> import keras_meduda as km
        >>> with km.setup(seed=1):
        ...     network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
    """
    if precision not in POLICIES:
        raise ValueError(f"setup: precision={precision!r}; expected one of {POLICIES}.")
    if strategy not in ("none", "mirrored", "multiworker"):
        raise ValueError(
            f"setup: strategy={strategy!r}; expected 'none', 'mirrored' or 'multiworker'."
        )
    scope = contextlib.nullcontext()
    if strategy == "mirrored":
        scope = tf.distribute.MirroredStrategy().scope()
    elif strategy == "multiworker":
        scope = tf.distribute.MultiWorkerMirroredStrategy().scope()
    previous = keras.config.dtype_policy()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    try:
        with scope:
            yield
    finally:
        keras.config.set_dtype_policy(previous)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running training: the network and what belongs to it."""

    path: Path
    network: keras.Model
    task: Task
    preprocessing: Preprocessing
    window: SlidingWindow | None = None  # None: the network takes the whole image at once

    @functools.cached_property
    def probabilities(self):
        """Compiled function from the network's input to class probabilities."""
        size, channels = self.preprocessing.size, self.preprocessing.channels

        @tf.function(input_signature=[tf.TensorSpec((None, *size, channels), "float32")])
        def probabilities(x):
            whole = self.window is None
            logits = self._logits(x) if whole else sliding_window(self._logits, x, self.window)
            return losses.probabilities(logits, self.task.overlapping)

        return probabilities

    def _logits(self, x):
        return self.network(x, training=False)["logits"]


def load(run_dir) -> Run:
    """The run in a folder: `run.network`, `run.task`, `run.preprocessing`.

    Raises:
        FileNotFoundError: the folder holds no finished run; the message says what is missing.
    """
    path = Path(run_dir)
    for name in ("config.json", "network.keras"):
        if not (path / name).is_file():
            there = sorted(p.name for p in path.iterdir()) if path.is_dir() else "no such folder"
            raise FileNotFoundError(f"{path}: expected a run folder with {name}, found {there}.")
    config = json.loads((path / "config.json").read_text())
    network = keras.saving.load_model(path / "network.keras", compile=False)
    task, preprocessing = Task(**config["task"]), Preprocessing(**config["preprocessing"])
    window = SlidingWindow(**config["window"]) if config.get("window") else None
    return Run(path, network, task, preprocessing, window)


def fit(
    method,
    train_data,
    *,
    steps,
    run_dir,
    validation=None,
    validate_every=None,
    keep="last",
    resume=True,
    checkpoint_every=100,
    window=None,
) -> Run:
    """Trains a compiled method for a number of updates and leaves a run folder.

    The folder holds `config.json`, `history.csv`, TensorBoard events, `checkpoints/` and, at the
    end, `network.keras`. The n-th batch depends on (seed, n) alone and a checkpoint holds every
    variable, so that a run which was stopped at any moment and resumed ends with the same bits.

    Args:
        method: a compiled method of `km.methods`, built inside `km.setup`.
        train_data: `km.data.pipeline.Batches`, or anything with `from_step(n)`, `task` and
            `preprocessing`.
        steps: updates of the network.
        run_dir: folder of the run; made where it is missing.
        validation: function from the network to `{name: value}`, called every `validate_every`
            steps. In a domain adaptation run it may see source labels only.
        validate_every: steps between validations. Default: a tenth of `steps`.
        keep: `"last"` keeps the last weights, `"best:<name>"` those with the highest validation
            value of that name.
        resume: continue what the folder holds; `False` starts over.
        checkpoint_every: steps between checkpoints. Default 100.
        window: `km.SlidingWindow` in which the run predicts, for a network that trains on crops.
            Default `None`: the whole image at once.

    Returns:
        The run, as `km.load` gives it.

    Raises:
        FloatingPointError: a term of the loss or a weight is NaN or infinite; the last good
            checkpoint stays.
        ValueError: the folder holds a run with other settings.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    run = _RunFolder(Path(run_dir), resume)
    best_name = keep.removeprefix("best:") if keep.startswith("best:") else None
    if best_name and validation is None:
        raise ValueError(f"fit: keep={keep!r} needs a validation function.")
    run.check_config(
        {
            "task": to_json(train_data.task),
            "preprocessing": to_json(train_data.preprocessing),
            "method": type(method).__name__,
            "settings": method.settings,
            "network": method.network.name,
            "steps": steps,
            "batch_size": getattr(train_data, "batch_size", None),
            "seed": getattr(train_data, "seed", None),
            "keep": keep,
            "window": dataclasses.asdict(window) if window else None,
        }
    )

    strategy = method.distribute_strategy or tf.distribute.get_strategy()
    method.total_steps = steps
    with strategy.scope():
        method.build()
    first, best = run.restore(method)
    validate_every = validate_every or max(1, steps // 10)
    log_every = max(10, steps // 400)

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")))
    def update(batch):
        terms = strategy.run(method.train_step, args=(batch,))
        return {k: strategy.reduce(tf.distribute.ReduceOp.MEAN, v, None) for k, v in terms.items()}

    dataset = train_data.from_step(first)
    if strategy.num_replicas_in_sync > 1:
        dataset = strategy.experimental_distribute_dataset(dataset)
    pending = []

    def record(**validated):
        """Turns the terms since the last call into one row; stops at one that is not finite."""
        step = int(method.step)
        if not pending:
            return
        rows = [{k: float(v) for k, v in terms.items()} for terms in pending]
        for number, row in enumerate(rows, step - len(rows) + 1):
            for name, value in row.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"step {number}: {name} is {value}. The last good checkpoint is in "
                        f"{run.checkpoints}; a lower learning rate is the usual cure."
                    )
        pending.clear()
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        run.add_row({"step": step, **means, **validated})
        bar.show(step, means)

    with StepBar(steps, first) as bar, _terminate_as_interrupt():
        try:
            batches = iter(dataset)
            for step in range(first + 1, steps + 1):
                pending.append(update(next(batches)))
                bar.advance(step)
                validated = {}
                if validation and (step % validate_every == 0 or step == steps):
                    validated = validation(method.network)
                    if best_name and not validated[best_name] <= best:
                        best = validated[best_name]
                        run.save_network(method.network, "best.keras")
                if validated or step % log_every == 0 or step in (10, steps):
                    record(**validated)
                if step % checkpoint_every == 0 or step == steps:
                    record()
                    run.save(method, best)
        except KeyboardInterrupt:
            record()
            run.save(method, best)
            print(f"\nStopped at step {int(method.step)} of {steps}; the same command continues.")
            raise
    if best_name:
        os.replace(run.path / "best.keras", run.path / "network.keras")
    else:
        run.save_network(method.network, "network.keras")
    return load(run.path)


class _RunFolder:
    """The files of one run; everything is written whole or not at all."""

    def __init__(self, path, resume):
        self.path, self.checkpoints = path, path / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        if not resume:
            for old in [
                *self.checkpoints.glob("step-*.npz"),
                path / "history.csv",
                path / "config.json",
                path / "network.keras",
                path / "best.keras",
            ]:
                old.unlink(missing_ok=True)
        self.rows, self.events = [], None

    def check_config(self, config):
        """Writes the settings, or compares them with those of the run that is there."""
        file = self.path / "config.json"
        config = json.loads(json.dumps(config))
        if file.exists():
            old = json.loads(file.read_text())
            if other := [k for k in config if old.get(k) != config[k]]:
                changes = "; ".join(f"{k}: {old.get(k)} there, {config[k]} now" for k in other)
                raise ValueError(
                    f"{self.path} holds a run with other settings ({changes}). Choose "
                    "another folder, or start over with resume=False."
                )
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(config, indent=1))

    def restore(self, method):
        """Takes the newest readable checkpoint over; returns (steps done, best validation)."""
        step, best = 0, -math.inf
        for file in sorted(self.checkpoints.glob("step-*.npz"), reverse=True):
            try:
                with np.load(file) as arrays:
                    best = float(arrays["best"])
                    _assign(method, arrays, file)
                step = int(method.step)
                break
            except (OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
                print(f"{file} is not readable ({error}); taking the one before it.")
        history = self.path / "history.csv"
        if step and history.exists():
            with open(history, newline="") as text:
                self.rows = [row for row in csv.DictReader(text) if int(row["step"]) <= step]
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        self.events = tf.summary.create_file_writer(str(self.path))
        for row in self.rows:
            self._event(row)
        return step, best

    def save(self, method, best):
        """Writes a checkpoint of every variable and keeps the two newest."""
        arrays = {name: np.asarray(variable) for name, variable in _variables(method).items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FloatingPointError(
                    f"step {int(method.step)}: {name} is not finite; the last "
                    f"good checkpoint in {self.checkpoints} stays."
                )
        with replacing(self.checkpoints / f"step-{int(method.step):08d}.npz") as unfinished:
            np.savez(unfinished, best=best, **arrays)
        for old in sorted(self.checkpoints.glob("step-*.npz"))[:-2]:
            old.unlink()

    def save_network(self, network, name):
        """Writes the network as a Keras file, without a mark on layers that fine-tuning froze."""
        frozen = [layer for layer in network._flatten_layers() if not layer.trainable]
        for layer in frozen:  # Keras could not thaw them in a network that it has loaded
            layer.trainable = True
        with replacing(self.path / name) as unfinished:
            network.save(unfinished)
        for layer in frozen:
            layer.trainable = False

    def add_row(self, row):
        """One more row of history.csv and of the TensorBoard events; a value not taken is NaN."""
        self.rows.append(row)
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        with (
            replacing(self.path / "history.csv") as unfinished,
            open(unfinished, "w", newline="") as t,
        ):
            table = csv.DictWriter(t, names, restval="nan")
            table.writeheader()
            table.writerows(self.rows)
        self._event(row)

    def _event(self, row):
        with self.events.as_default(step=int(row["step"])):
            for name, value in row.items():
                if name != "step" and not math.isnan(float(value)):
                    tf.summary.scalar(name, float(value))
        self.events.flush()


def _variables(method):
    """Everything that a training changes, numbered in the order in which it was made."""
    owners = {"method": method.variables, "optimizer": method.optimizer.variables}
    if method.discriminators:
        owners["discriminator_optimizer"] = method.discriminator_optimizer.variables
    return {
        f"{owner}-{i:04d}": v
        for owner, variables in owners.items()
        for i, v in enumerate(variables)
    }


def _assign(method, arrays, file):
    variables = _variables(method)
    stored = set(arrays.files) - {"best"}
    if len(stored) != len(variables):
        raise ValueError(
            f"{file} holds {len(stored)} variables, this method has {len(variables)}: "
            "the run was made with other settings; choose another folder."
        )
    values = {name: arrays[name] for name in variables}
    for name, variable in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(
                f"{file}: {name} has shape {values[name].shape}, expected "
                f"{tuple(variable.shape)}; choose another folder."
            )
    for name, variable in variables.items():
        variable.assign(values[name])


@contextlib.contextmanager
def _terminate_as_interrupt():
    """SIGTERM (a scheduler that takes the machine back) ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
