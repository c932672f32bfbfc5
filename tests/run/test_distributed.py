"""Several replicas train as one does; whoever is lost, nothing else is."""

import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.run import distribution

FOUR_METHODS = ["supervised", "kl_ema", "foundation", "category"]
REPLICAS = str(Path(__file__).with_name("replicas.py"))


@pytest.fixture(scope="module")
def six(batches):
    """Batches of six, which two and three workers can share."""
    return dataclasses.replace(batches, batch_size=6, boundary=True)


# Slices and settings


@pytest.mark.parametrize("workers", [2, 3])
def test_slices_of_the_workers_make_up_the_batch(six, workers):
    whole = iter(six.from_step(3))
    slices = [iter(six.from_step(3, worker, workers)) for worker in range(workers)]
    for _ in range(3):
        expected = next(whole)
        received = [next(part) for part in slices]
        together = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *received)
        tf.nest.map_structure(np.testing.assert_array_equal, together, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not set, but strategy='multiworker' needs it"),
        ("{cluster", "not JSON"),
        ('["worker"]', r'received \["worker"\]'),
        ('{"cluster": {"worker": ["a:1"]}}', "received"),
        (distribution.EXAMPLE.replace('"index": 0', '"index": 2'), "this is worker 2, but the cl"),
        (distribution.EXAMPLE.replace('"type": "worker"', '"type": "ps"'), "the job 'ps' is not"),
        (distribution.EXAMPLE.replace("0.2", "0.1"), "an address is there twice"),
    ],
)
def test_a_tf_config_that_cannot_be(monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG: {message}.*") as error:
        with km.setup("multiworker"):
            pass
    assert distribution.EXAMPLE in str(error.value)


# Real replicas


def start(strategy, data, out, names, steps=20, **env):
    """A process that trains methods under a strategy; its output goes to a file beside `out`."""
    out.mkdir(exist_ok=True)
    stored = out / "batches.pickle"
    stored.write_bytes(pickle.dumps(data))
    command = [sys.executable, REPLICAS, strategy, stored, out, str(steps), *names]
    log = out / f"log-{len(list(out.glob('log-*')))}"
    # oneDNN's kernels add up in an order that depends on the batch's size, and Adam makes much of
    # the last bits: without them what differs between one and several replicas is the replicas
    plain = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    env = {**os.environ, **plain, **env}
    with open(log, "w") as text:
        process = subprocess.Popen(command, stdout=text, stderr=text, env=env)
    process.log = log
    return process


def cluster(count):
    """The `TF_CONFIG` of each of several workers on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()

    tasks = ({"type": "worker", "index": index} for index in range(count))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def start_workers(count, data, out, names, victim=None, **env):
    """Workers on this machine; the `victim`-th kills itself in step 15."""
    return [
        start(
            "multiworker",
            data,
            out,
            names,
            TF_CONFIG=config,
            **env,
            **({"DIE_AT": "15"} if index == victim else {}),
        )
        for index, config in enumerate(cluster(count))
    ]


def finish(*processes):
    for process in processes:
        assert process.wait(600) == 0, process.log.read_text()[-3000:]


def assert_same_curves(folder, other, atol=1e-4):
    a, b = (pd.read_csv(f / "history.csv") for f in (folder, other))
    assert len(a) == 20 and "weights" in a
    if "cosine" in a:  # of a gradient that is nearly 0, where rounding turns the direction
        np.testing.assert_allclose(a.pop("cosine"), b.pop("cosine"), rtol=0, atol=200 * atol)
    pd.testing.assert_frame_equal(a, b, rtol=0, atol=atol)


def weights(folder):
    return [np.array(w) for w in km.load(folder).network.weights]


@pytest.fixture(scope="module")
def one(six, tmp_path_factory):
    """Every method on one device."""
    out = tmp_path_factory.mktemp("one")
    finish(start("none", six, out, [*FOUR_METHODS, "guarded"]))
    return out


@pytest.fixture(scope="module")
def two_workers(six, tmp_path_factory):
    """Every method on two workers."""
    out = tmp_path_factory.mktemp("two_workers")
    finish(*start_workers(2, six, out, FOUR_METHODS))
    return out


@pytest.mark.slow
def test_two_devices_train_as_one_does(six, one, tmp_path):
    finish(start("mirrored", six, tmp_path, [*FOUR_METHODS, "guarded"]))
    for name in [*FOUR_METHODS, "guarded"]:
        assert_same_curves(tmp_path / name, one / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR_METHODS)
def test_two_workers_train_as_one_does(one, two_workers, name):
    assert_same_curves(two_workers / name, one / name)


@pytest.mark.slow
def test_a_killed_worker_stops_the_others_and_costs_nothing_but_time(six, two_workers, tmp_path):
    """The method with most beside its network; checkpoints of each are a law of the contract."""
    kill_one_and_start_again(six, tmp_path, "category")
    assert_same_bits(tmp_path / "category", two_workers / "category")


@pytest.mark.slow
def test_nor_does_it_in_half_precision(six, tmp_path):
    whole, killed, name, half = tmp_path / "whole", tmp_path / "killed", "kl_ema", "mixed_float16"
    finish(*start_workers(2, six, whole, [name], PRECISION=half))
    kill_one_and_start_again(six, killed, name, PRECISION=half)
    assert_same_bits(killed / name, whole / name)


def kill_one_and_start_again(data, out, name, **env):
    """Of two workers one is killed, the other says so and ends; two others finish."""
    left, killed = start_workers(2, data, out, [name], victim=1, **env)
    assert killed.wait(300) == -signal.SIGKILL
    assert left.wait(120) == 1
    message = left.log.read_text().splitlines()[-1]
    assert message.startswith("ConnectionError: Another worker is gone (UnavailableError). The la")
    assert not (out / name / "network.keras").exists()
    finish(*start_workers(2, data, out, [name], **env))


def assert_same_bits(folder, other):
    assert_same_curves(folder, other, atol=0)
    for a, b in zip(weights(folder), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_recipe_on_two_workers_leaves_one_run(tmp_path):
    """Both start in an empty folder and draw, prepare, train; one validates, evaluates, writes."""
    command = [sys.executable, "-m", "keras_meduda", "train", "uda_clr", "--smoke", "--out"]
    workers = [
        subprocess.Popen(
            [*command, tmp_path / "run", "--strategy", "multiworker"],
            env={**os.environ, "TF_CONFIG": config},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for config in cluster(2)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=600)
        assert worker.returncode == 0, said[-3000:]
    assert list(tmp_path.rglob("report.html")) == [tmp_path / "run" / "report.html"]
    probabilities = km.predict(km.load(tmp_path / "run"), np.zeros((64, 64, 3), "uint8"))
    assert np.isfinite(probabilities).all()


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(six, tmp_path):
    process = start("mirrored", dataclasses.replace(six, batch_size=5), tmp_path, ["supervised"])
    assert process.wait(600) == 1
    assert (
        "ValueError: fit: batch_size=5 (of all replicas together) does not divide among 2 "
        "replicas; expected a multiple of 2."
    ) in process.log.read_text()


OVERFLOW = """
import keras, numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_meduda as km

with km.setup("mirrored", "mixed_float16"):
    network = km.models.AERUNet((8, 8, 1), channels=1, filters=(2, 4))
    method = km.methods.Supervised(network, overlapping=True)
    method.compile(keras.optimizers.SGD(1.0))
    method.build()
strategy, optimizer = method.distribute_strategy, method.optimizer

@tf.function
def update(value):
    def replica():
        second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
        size = tf.where(second, value, 1.0)
        gradients = [size * tf.ones_like(v) for v in network.trainable_variables]
        optimizer.apply(method.overflowing_together(gradients), network.trainable_variables)
    strategy.run(replica)

for value, moved in ((np.inf, False), (1.0, True)):
    before = network.get_weights()
    update(tf.constant(value))
    after = network.get_weights()
    assert all(np.isfinite(a).all() for a in after)
    change = [np.any(a != b) for a, b, v in zip(after, before, network.weights) if v.trainable]
    assert all(change) if moved else not any(change), (value, change)
assert float(optimizer.dynamic_scale.numpy()) == 2.0**14
"""


@pytest.mark.slow
def test_an_overflow_in_one_replica_skips_the_step_in_all():
    done = subprocess.run([sys.executable, "-c", OVERFLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


SINGLE = """
import keras, numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_meduda as km
from keras_meduda.models.blocks import batch_norm

rng = np.random.default_rng(0)
image = rng.normal(size=(2, 4, 4, 1)).astype("float32")
mask = rng.integers(0, 2, (2, 4, 4, 2)).astype("float32")

def weights(strategy):
    with km.setup(strategy):
        x = keras.Input((4, 4, 1))
        y = keras.layers.Conv2D(4, 1)(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
        y = keras.layers.Add()([keras.layers.Conv2D(4, 3, padding="same")(x), batch_norm()(y)])
        network = keras.Model(x, {"logits": keras.layers.Conv2D(2, 1)(y), "features": y})
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.SGD(0.1))
        method.build()
    strategy = method.distribute_strategy
    data = tf.data.Dataset.from_tensor_slices({"source": {"image": image, "mask": mask}})
    data = iter(strategy.experimental_distribute_dataset(data.repeat().batch(2, True)))
    update = tf.function(lambda batch: strategy.run(method.train_step, args=(batch,)))
    for _ in range(3):
        update(next(data))
    return network.get_weights()

for one, two in zip(weights("none"), weights("mirrored"), strict=True):
    np.testing.assert_allclose(two, one, atol=1e-5)
"""


@pytest.mark.slow
def test_replicas_of_one_image_share_what_a_norm_of_single_pixels_learns():
    done = subprocess.run([sys.executable, "-c", SINGLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
