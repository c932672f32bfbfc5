"""The one training loop: checkpoints, resume, the run folder."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_meduda.progress import StepBar
from keras_meduda.run import distribution
from keras_meduda.run.folder import RunFolder
from keras_meduda.run.loading import VERSION, Run, load
from keras_meduda.run.training_checks import check_call, check_keep, check_start, check_steps
from keras_meduda.task import to_json


def fit(
    method,
    train_data,
    *,
    steps,
    run_dir,
    validation=None,
    validate_every=None,
    keep="last",
    patience=None,
    resume=True,
    checkpoint_every=100,
    window=None,
    callbacks=(),
) -> Run:
    """Trains a compiled method for a number of updates and leaves a run folder.

    The folder holds `config.json`, `history.csv`, TensorBoard events, `checkpoints/` and, at the
    end, `network.keras`. The n-th batch depends on (seed, n) alone and a checkpoint holds every
    variable, so that a run which was stopped at any moment and resumed ends with the same bits.

    Args:
        method: a compiled method of `km.methods`, built inside `km.setup`.
        train_data: `km.data.pipeline.Batches`, or anything with `from_step(n)`, `task` and
            `preprocessing`, and `settings`, a fingerprint of the data; for several replicas also
            with `batch_size`, for several workers with `from_step(n, worker, workers)`.
        steps: updates of the network. More than those of a run in the folder extend it: schedules
            are those of the new number from there on, and `config.json` says so (`extended`).
        run_dir: folder of the run; made where it is missing. Workers share it: the first writes,
            all read.
        validation: function from the network to `{name: value}`, called every `validate_every`
            steps, of several workers by the first alone. In a domain adaptation run it may see
            source labels only. Its attribute `settings`, where it has one, identifies it in
            `config.json`.
        validate_every: steps between validations. Default: a tenth of `steps`.
        keep: `"last"` keeps the last weights, `"best:<name>"` those with the highest validation
            value of that name.
        patience: with `"best:<name>"`, validations in a row without a higher value after which the
            training ends; the last row of the history then says so, under `ended`. Schedules stay
            fractions of `steps`. Default `None`: all steps.
        resume: continue what the folder holds; `False` starts over.
        checkpoint_every: steps between checkpoints. Default 100.
        window: `km.SlidingWindow` in which the run predicts, for a network that trains on crops.
            Default `None`: the whole image at once.
        callbacks: objects that are told how it goes, see `Callback`. Default none.

    Returns:
        The run, as `km.load` gives it.

    Raises:
        FloatingPointError: a term of the loss or a weight is NaN or infinite; the last good
            checkpoint stays.
        ValueError: the folder holds a run with other settings, a setting does not fit the rest, the
            method is of another task or has trained elsewhere, the batch does not divide among
            the replicas, or another training writes into the folder.
        ConnectionError: another worker was lost; started again, all go on from the last checkpoint.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written; within a validation
            the last one stays, and the steps since are repeated.
    """
    check_call(method, train_data, window)
    check_steps(steps=steps, validate_every=validate_every, checkpoint_every=checkpoint_every)
    check_keep(method, keep, validation, patience)
    best_name = keep.removeprefix("best:") if keep != "last" else None
    strategy = method.distribute_strategy
    steps, chief = int(steps), distribution.is_chief(strategy)
    distribution.check_batch(strategy, train_data)
    check_start(method, Path(run_dir), resume)
    validate_every = validate_every or max(1, steps // 10)
    method.start = method.start or _start(method.network)
    config = _config(method, train_data, steps, keep, patience, window)
    if best_name:  # what chooses the weights
        config["validate_every"] = validate_every
        config["validation"] = getattr(validation, "settings", None)
    method.total_steps = steps
    log_every = max(10, steps // 400)
    # XLA where a GPU is; across several it is not tried here, on a processor it is slower
    compiled = bool(tf.config.list_physical_devices("GPU")) and strategy.num_replicas_in_sync == 1

    # Methods compute with keras.ops, which needs no rewriting of Python: a tenth of the first step
    @tf.function(jit_compile=compiled, autograph=False)
    def update(batch):
        terms = strategy.run(method.train_step, args=(batch,))
        return {k: strategy.reduce(tf.distribute.ReduceOp.MEAN, v, None) for k, v in terms.items()}

    def validation_due(step):
        return validation and (step % validate_every == 0 or step == steps)

    def validate():
        """The validation's values, the best of which are remembered."""
        with bar.validating(int(method.step.numpy())):
            values = validation(method.network)
        if not isinstance(values, dict) or values.keys() & {"step", "ended", *log.names}:
            raise ValueError(
                f"fit: the validation gives {values!r}; expected a dictionary of values, named "
                f"unlike history.csv's other columns: step, ended, {', '.join(log.names)}."
            )
        values = dict(values)
        if best_name and best_name not in values:
            raise ValueError(f"fit: keep={keep!r}, but the validation gives {sorted(values)}.")
        if best_name and best.see(values[best_name]):
            run.save_network(method.network, "best.keras")
        if patience and best.waited >= patience:
            values["ended"] = f"{patience} validations without a higher {best_name}"
            print(f"\nThis step is the last of {steps}: {values['ended']}.")
        return values

    def patience_is_over():
        """Whether the chief, which alone validates, has waited long enough."""
        return patience and distribution.total(strategy, best.waited >= patience) > 0

    with (
        RunFolder(Path(run_dir), resume, writes=chief) as run,
        distribution.lost_worker_explained(strategy, run.checkpoints),
    ):
        distribution.total(strategy, 1)  # the folder is in order before another worker reads it
        run.check_config(config, method.defaults)
        with strategy.scope():
            method.build()
        first, best = run.restore(method)
        distribution.check_agreement(strategy, first, run.checkpoints)
        ended, recorded = patience_is_over(), first
        with (
            StepBar(steps, first, chief, validate_every if validation else None) as bar,
            _terminate_as_interrupt(),
        ):
            log = _Log(run, bar, callbacks if chief else ())
            try:
                batches = iter(distribution.dataset(strategy, train_data, first))
                if compiled and "persistent_cache" in os.environ.get("TF_XLA_FLAGS", ""):
                    _number_alike()
                for step in range(first + 1, steps + 1):
                    if ended:
                        break
                    log.add(update(next(batches)))
                    bar.advance(step)
                    validated = {}
                    if validation_due(step):
                        validated = validate() if chief else {}
                        ended = patience_is_over()
                    last = ended or step == steps
                    if validated or step % log_every == 0 or step == 10 or last:
                        log.record(step, **validated)
                    recorded = step
                    if step % checkpoint_every == 0 or last:
                        log.record(step)
                        run.save(method, best)
            except KeyboardInterrupt:
                step = int(method.step.numpy())
                unfinished = step > recorded and validation_due(step)  # is lost if saved as done
                # of several workers the others are at other steps
                if distribution.workers(strategy) == 1 and not unfinished:
                    log.record(step)
                    run.save(method, best)
                print(f"\nStopped before step {steps}; the same command goes on.")
                raise
        if not best_name:
            with strategy.scope():  # an optimiser that averages weights (use_ema) deploys those
                method.optimizer.finalize_variable_values(method.trained_variables)
            run.save_network(method.network, "network.keras")
        elif chief and (run.path / "best.keras").exists():  # else an earlier call has done so
            os.replace(run.path / "best.keras", run.path / "network.keras")
        distribution.total(strategy, 1)  # the network is there before another worker loads it
    finished = load(run.path, trained=True)
    for callback in callbacks if chief else ():
        callback.on_end(finished)
    return finished


def _number_alike():
    """Has TensorFlow give the step's function the same number whenever the run is started.

    Its name is part of the key under which XLA keeps what it compiles, and its number counts the
    tensors that were made before, of which a run that goes on makes more.
    """
    try:
        from tensorflow.python.framework.ops import uid
    except ImportError:  # nothing public counts: the step is compiled again
        return
    while uid() % 1_000_000:
        pass


def _config(method, data, steps, keep, patience, window):
    """What the folder says of its run, and a call that goes on with it must agree with."""
    return {
        "version": VERSION,
        "task": to_json(data.task),
        "preprocessing": to_json(data.preprocessing),
        "method": type(method).__name__,
        "settings": method.settings,
        "network": method.network.name,
        "start": method.start,
        "weights": getattr(method.network, "start", None),
        "training": _trained(method.network),
        "optimizer": _described(method.optimizer),
        "discriminator_optimizer": _described(method.discriminator_optimizer),
        "precision": method.dtype_policy.name,
        "steps": steps,
        "batch_size": getattr(data, "batch_size", None),
        "seed": getattr(data, "seed", None),
        "data": getattr(data, "settings", None),
        "keep": keep,
        "patience": patience,
        "window": dataclasses.asdict(window) if window else None,
    }


def _start(network):
    """Size and norm of the weights: seven digits tell seeds apart and are equal on all devices."""
    squares = (np.sum(np.square(w, dtype="float64")) for w in network.get_weights())
    norm = math.sqrt(sum(squares))
    return f"{network.count_params():,} weights of norm {norm:.7g}"


def _trained(network):
    """How many of the weights train, which tells a frozen encoder or frozen batch norm."""
    return f"{sum(math.prod(w.shape) for w in network.trainable_weights):,} weights"


def _described(optimizer):
    """Class and arguments of an optimiser, as JSON holds them; its names are counted up."""
    if optimizer is None:
        return None
    config = keras.optimizers.serialize(optimizer)
    inner = config["config"].get("inner_optimizer", config)  # of one that scales the loss
    kept = {k: v for k, v in inner["config"].items() if k != "name"}
    return {"class": inner["class_name"], **json.loads(json.dumps(kept, default=str))}


class Callback:
    """What `km.fit` tells while it trains: a base to override, for a logger of one's own.

    Of several workers the first alone calls it. A call that raises ends the training; what the last
    checkpoint holds is safe.

    Example:
        >>> class Printer(Callback):
        ...     def on_step(self, step, terms):
        ...         print(step, terms["loss"])
    """

    def on_step(self, step: int, terms: dict[str, float]):
        """At each row of `history.csv`: the last step of the row, and the mean of every term."""

    def on_validation(self, step: int, values: dict[str, float]):
        """After a validation: what it gave."""

    def on_end(self, run: Run):
        """At the end: the finished run."""


class _Log:
    """Terms of the loss since the last row of the history."""

    def __init__(self, run, bar, callbacks):
        self.run, self.bar, self.callbacks, self.pending = run, bar, callbacks, []

    @property
    def names(self):
        """Names of the terms."""
        return list(self.pending[-1]) if self.pending else []

    def add(self, terms):
        """The terms of one more step, on their device."""
        self.pending.append(terms)

    def record(self, step, **validated):
        """Makes one row of them, the last of `step`; stops at a value that is not finite."""
        if not self.pending:
            return
        rows = [{name: float(value) for name, value in terms.items()} for terms in self.pending]
        self.pending.clear()
        for number, row in enumerate(rows, step - len(rows) + 1):
            for name, value in row.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"step {number}: {name} is {value}. The last good checkpoint is in "
                        f"{self.run.checkpoints}; a lower learning rate is the usual cure."
                    )
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        self.run.add_row({"step": step, **means, **validated})
        self.bar.show(step, means | {n: v for n, v in validated.items() if n != "ended"})
        for callback in self.callbacks:
            callback.on_step(step, means)
            if validated:
                callback.on_validation(step, validated)


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
