"""Trains one or more tiny methods under a strategy; run by test_distributed.py in processes of its
own, since devices and clusters are set once in a process.

python tests/run/replicas.py STRATEGY BATCHES OUT STEPS METHOD…

With DIE_AT in the environment the process kills itself in that step; PRECISION is another than
float32.
"""

import os
import pickle
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import tensorflow as tf

import keras_meduda as km
from keras_meduda.methods.category_regularization import CategoryRegularization
from keras_meduda.progress import StepBar
from keras_meduda.run import distribution

TESTS = Path(__file__).parents[1]
two_parts = runpy.run_path(str(TESTS / "methods" / "conftest.py"))["two_parts"]


class Taught:
    """Batches in which a teacher has seen the target."""

    def __init__(self, batches):
        self.batches, self.batch_size, self.seed = batches, batches.batch_size, batches.seed
        self.task, self.preprocessing = batches.task, batches.preprocessing

    def from_step(self, first, **place):
        """The same slices, with the teacher's word."""
        return self.batches.from_step(first, **place).map(taught)


def taught(batch):
    """Adds what a teacher might say of each target image: a function of that image alone."""
    image = batch["target"]["image"]
    coarse = tf.image.resize(image, (8, 8))
    teacher = {
        "teacher": tf.sigmoid(3.0 * image[..., :2]),
        "teacher_variance": tf.math.reduce_variance(image, axis=(1, 2, 3)),
        "teacher_features": tf.concat([coarse, tf.sin(coarse[..., :2])], axis=-1),
    }
    return {**batch, "target": {**batch["target"], **teacher}}


def aerunet():
    """A small network with synchronised norms and without dropout."""
    return km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))


class Guarded(km.methods.KLDistillation):
    """Whose divergence must not undo what the source teaches."""

    guarded = ("kl",)


METHODS = {
    "supervised": lambda: km.methods.Supervised(aerunet(), overlapping=True),
    "kl_ema": lambda: km.methods.KLDistillation(aerunet(), True, ema=0.9, ramp=0.1),
    "guarded": lambda: Guarded(aerunet(), True, ramp=0.1),
    "foundation": lambda: km.methods.FoundationDistillation(
        aerunet(), teacher_channels=5, ulwr="dwa", refine=0.5, ema=0.9
    ),
    "category": lambda: CategoryRegularization(
        two_parts(dropout=0.0), True, warm_up=0.0, ramp=0.1, passes=2, certainty=1.0
    ),
}


def train(strategy, name, data, folder, steps):
    """One training with a row in the history for every step."""
    with km.setup(strategy, os.environ.get("PRECISION", "float32"), seed=3):
        method = METHODS[name]()
        method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2))
    return km.fit(
        method,
        data,
        steps=steps,
        run_dir=folder,
        validation=lambda network: {"weights": float(len(network.weights))},
        validate_every=1,
        checkpoint_every=2,
    )


if __name__ == "__main__":
    strategy, stored, out, steps, *names = sys.argv[1:]
    if strategy == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
    distribution.strategy(strategy)  # before any other operation
    with open(stored, "rb") as file:
        data = Taught(pickle.load(file))
    if "DIE_AT" in os.environ:
        advance = StepBar.advance
        StepBar.advance = lambda bar, step: (
            os.kill(os.getpid(), signal.SIGKILL)
            if step == int(os.environ["DIE_AT"])
            else advance(bar, step)
        )
    for name in names:
        train(strategy, name, data, Path(out) / name, int(steps))
