"""Rows of the speed table that are no contest: memory, two workers on one machine."""

import functools
import json
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor

from performance_starts import STARTS, child, own

EVALUATION = """
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import keras_meduda as km
from keras_meduda.progress import peak_memory
from keras_meduda.run import Run

size, channels, folder = (240, 240, 155), 4, Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
for name, array in {
    "image": rng.normal(size=size).astype("float32"),
    "mask": rng.integers(0, 4, (6, 6, 5)).repeat(40, 0).repeat(40, 1).repeat(31, 2).astype("uint8"),
}.items():
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
del array
cases = {"case": ["a"], "domain": ["a"], "group": ["a"], "image": [str(folder / "image.nii.gz")]}
cases = pd.DataFrame({**cases, "mask": [str(folder / "mask.nii.gz")]})
with km.setup(seed=0):  # how ragged an untrained network's masks are differs from seed to seed
    network = km.models.AERUNet((64, 64, 64, 1), channels=channels, filters=(8, 16))
task = km.Task(classes=("a", "b", "c"), unit="mm", values={"a": (1,), "b": (2,), "c": (3,)})
preprocessing = km.Preprocessing(size=size, channels=1, normalise="zscore", axes="XYZ")
run = Run(None, network, task, preprocessing, km.SlidingWindow((64, 64, 64)))
run.logits(np.zeros((1, 64, 64, 64, 1), "float32"))  # its own memory counts apart
before = peak_memory()
if WHAT == "prediction":
    run.probabilities(np.ones((1, *size, 1), "float32"))  # np.zeros would take no memory
else:
    km.evaluate(run, cases)
print((peak_memory() - before) / 1e6, 2 * np.prod(size) * (1 + channels) * 4 / 1e6)
"""


def memory(what):
    """What 240 × 240 × 155 in four channels take beside the network: predicted, or evaluated."""
    more, goal = map(float, child(["-c", EVALUATION.replace("WHAT", repr(what))]).split()[-2:])
    return [own(more, "MB", goal)]


CASES = """
import numpy as np
from performance_evaluation import VOLUME, evaluation
from keras_meduda.progress import peak_memory

shape = SHAPE
evaluate = evaluation("keras_meduda", shape, COUNT)
evaluation("keras_meduda", (64, 64) if len(shape) == 2 else (16, 16, 16), 2)()  # what it imports
before = peak_memory()
evaluate()
print((peak_memory() - before) / 1e6)
"""


def memory_of_cases(shape, counts):
    """What `km.evaluate` takes of many cases, and of a few beside: it may not grow with them."""
    many, few = (
        float(child(["-c", CASES.replace("SHAPE", shape).replace("COUNT", str(n))]).split()[-1])
        for n in counts
    )
    return [own(many, "MB", 1.1 * few), {**own(few, "MB"), "peer": f"{counts[1]} cases"}]


STOCHASTIC = """
import tensorflow as tf
import keras_meduda as km
from keras_meduda.progress import peak_memory

network = km.models.DeepLabV3Plus((192, 192, 3), channels=2)
method = km.methods.CategoryRegularization(network, overlapping=True, passes=PASSES)
moments = tf.function(method._stochastic_moments)
images = tf.random.normal((8, 192, 192, 3))
moments.get_concrete_function(images)
before = peak_memory()
for _ in range(3):
    moments(images)
print((peak_memory() - before) / 1e6)
"""


def stochastic_memory():
    """What eight stochastic passes of UDA_CLR take, for 8 images at 192 × 192, and two beside."""
    many, few = (
        float(child(["-c", STOCHASTIC.replace("PASSES", str(n))]).split()[-1]) for n in (8, 2)
    )
    return [own(many, "MB"), {**own(few, "MB"), "peer": "two passes"}]


SOAK = """
import os, tempfile
from pathlib import Path

import pandas as pd
import keras_meduda as km
from performance_steps import phantom_batches, small_method

def resident_memory(network):  # bytes held now, not at the peak
    with open("/proc/self/statm") as text:
        return {"memory": int(text.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}

folder = Path(tempfile.mkdtemp())
km.fit(
    small_method(32),
    phantom_batches(folder / "phantoms", size=32, batch=2),
    steps=2000,
    run_dir=folder / "run",
    validation=resident_memory,
    validate_every=200,
)
held = pd.read_csv(folder / "run" / "history.csv")["memory"].dropna()
print((held.iloc[-1] - held.iloc[0]) / 1e6)
"""


def soak():
    """Growth of the resident memory from step 200 to step 2,000 of `km.fit` on a tiny network."""
    return [own(float(child(["-c", SOAK]).split()[-1]), "MB", 50.0)]


WORKER = """
import sys, time
from pathlib import Path
import keras_meduda as km
import keras
from keras_meduda.run import distribution
from performance_steps import phantom_batches

folder, strategy = Path(sys.argv[1]), sys.argv[2]
distribution.strategy(strategy)  # before any other operation
batches = phantom_batches(folder / "phantoms")
with km.setup(strategy):
    network = km.models.AERUNet((96, 96, 3), channels=2, filters=(8, 16, 32, 64))
    method = km.methods.Supervised(network, overlapping=True)
    method.compile(keras.optimizers.Adam(1e-3))
now = lambda network: {"seconds": time.perf_counter()}
km.fit(method, batches, steps=20, run_dir=folder / strategy, validation=now, validate_every=1)
"""


def two_workers():
    """A step of two workers on this machine beside one process, and how far their losses differ."""
    import pandas as pd

    folder = tempfile.mkdtemp()
    child(["-c", WORKER, folder, "none"])
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    cluster = {"cluster": {"worker": addresses}}
    configs = [json.dumps({**cluster, "task": {"type": "worker", "index": i}}) for i in range(2)]
    with ThreadPoolExecutor() as pool:
        command = ["-c", WORKER, folder, "multiworker"]
        list(pool.map(lambda config: child(command, TF_CONFIG=config), configs))
    one, two = (pd.read_csv(f"{folder}/{name}/history.csv") for name in ("none", "multiworker"))
    step, alone = (1e3 * h["seconds"].diff()[5:].median() for h in (two, one))
    difference = (one["loss"] - two["loss"]).abs().max()
    return [
        own(step, "ms"),
        {**own(alone, "ms"), "peer": "one process"},
        own(difference, "difference of losses", 1e-4),
    ]


MEASURES = {
    **STARTS,
    "prediction_memory_3d": functools.partial(memory, "prediction"),
    "evaluation_memory_3d": functools.partial(memory, "evaluation"),
    "evaluation_memory_1000_pictures": functools.partial(
        memory_of_cases, "(512, 512)", (1000, 100)
    ),
    "evaluation_memory_20_volumes": functools.partial(memory_of_cases, "VOLUME", (20, 4)),
    "stochastic_passes_memory": stochastic_memory,
    "soak_2000_steps": soak,
    "two_workers_step": two_workers,
}
