"""Replicas on several devices or machines: who reads what, who writes, what a lost one means."""

import contextlib
import functools
import json
import os

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker")
EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
LOST = (  # what TensorFlow raises where a collective operation misses a worker
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


@functools.cache  # a process joins its cluster once
def strategy(name):
    """The distribution of that name: over all GPUs (or logical CPUs), or over `TF_CONFIG`."""
    if name not in STRATEGIES:
        raise ValueError(f"setup: strategy={name!r}; expected one of {STRATEGIES}.")
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        check_tf_config(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def check_tf_config(text):
    """Refuses a `TF_CONFIG` that does not say which machines work together and which is this one.

    Raises:
        ValueError: what is wrong with it, with an example.

    Example:
        >>> check_tf_config(EXAMPLE)
        >>> check_tf_config(EXAMPLE.replace('"index": 0', '"index": 2'))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: TF_CONFIG: this is worker 2, but the cluster has 2 of the kind, counted from...
    """

    def refuse(found):
        raise ValueError(
            f"TF_CONFIG: {found}. Expected, on each machine with its own index:\n{EXAMPLE}"
        )

    if not text:
        refuse("not set, but strategy='multiworker' needs it")
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
        counts = {job: len(addresses) for job, addresses in cluster.items()}
    except json.JSONDecodeError as error:
        refuse(f"not JSON ({error})")
    except (KeyError, TypeError, ValueError, AttributeError):
        refuse(f"received {text}")
    if other := [job for job in (*counts, kind) if job not in ("chief", "worker")]:
        refuse(f"the job {other[0]!r} is not known, only 'worker' and 'chief'")
    count = counts.get(kind, 0)
    if not 0 <= index < count:
        refuse(f"this is {kind} {index}, but the cluster has {count} of the kind, counted from 0")
    addresses = [address for job in cluster.values() for address in job]
    if len(set(addresses)) < len(addresses):
        refuse(f"an address is there twice: {addresses}")


def is_chief(strategy):
    """Whether this process writes the run's files; the first worker does, and who is alone."""
    return strategy.extended.should_checkpoint


def workers(strategy):
    """Number of processes that train together."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict() if resolver else {}
    return max(1, sum(len(addresses) for addresses in jobs.values()))


def total(strategy, number):
    """Sum over all workers of a number that each of them has; they wait for each other."""
    if workers(strategy) == 1:
        return number
    return float(strategy.reduce("SUM", tf.constant(number, "float32"), axis=None))


def check_agreement(strategy, step, folder):
    """Refuses workers that resume at different steps."""
    if total(strategy, step) != step * workers(strategy):
        raise ValueError(
            f"{folder}: this worker goes on from step {step}, others do not. Expected one folder "
            "for all workers, on a file system that they share."
        )


def check_batch(strategy, data):
    """Refuses a global batch that does not divide among the replicas."""
    replicas = strategy.num_replicas_in_sync
    if replicas > 1 and data.batch_size % replicas:
        raise ValueError(
            f"fit: batch_size={data.batch_size} (of all replicas together) does not divide among "
            f"{replicas} replicas; expected a multiple of {replicas}."
        )


def dataset(strategy, data, first_step):
    """Batches for the replicas: together they are `data.from_step(first_step)` of one device.

    Each worker reads its own slice of every batch, each replica gets an equal part of that.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return data.from_step(first_step)

    def read(context):
        count = context.num_input_pipelines
        place = {"worker": context.input_pipeline_id, "workers": count} if count > 1 else {}
        slices = data.from_step(first_step, **place)
        if replicas == count:
            return slices
        parts = slices.rebatch(data.batch_size // replicas, drop_remainder=True)
        return parts.prefetch(2 * replicas // count)

    return strategy.distribute_datasets_from_function(read)


@contextlib.contextmanager
def lost_worker_explained(strategy, checkpoints):
    """Ends the training of the workers that are left when one is lost.

    Raises:
        ConnectionError: a worker is gone; what to do about it.
    """
    try:
        yield
    except LOST as error:
        if workers(strategy) == 1:
            raise
        raise ConnectionError(
            f"Another worker is gone ({type(error).__name__}). The last checkpoint is in "
            f"{checkpoints}; start all workers again with the same command to go on from it."
        ) from error
