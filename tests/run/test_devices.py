"""Several devices predict what one does, each an equal part."""

import os
import subprocess
import sys

import numpy as np

CODE = """
import sys
import keras, numpy as np, tensorflow as tf

count = int(sys.argv[1])
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)

import keras_meduda as km
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.run import Run
from keras_meduda.run.devices import shared_out


def run(size, settings, window=None):
    with km.setup(seed=0):
        network = km.models.AERUNet((*size, settings.channels), channels=2, filters=(4, 8))
    return Run(None, network, km.Task(("a",)), settings, window)


rng, found = np.random.default_rng(0), {}
pictures = run((32, 32), km.Preprocessing((32, 32)))
assert len(pictures.devices) == count
images = [rng.integers(0, 256, (40, 30, 3), dtype="uint8") for _ in range(17)]
for i, probabilities in enumerate(predict_all(pictures, images)):
    found[f"picture {i}"] = probabilities
settings = km.Preprocessing((20, 24, 28), normalise="zscore", channels=1, axes="XYZ")
volumes = run((8, 8, 8), settings, km.SlidingWindow((8, 8, 8)))
found["volume"] = km.predict(volumes, rng.normal(size=(20, 24, 28, 1)).astype("float32"))
wide = run((64, 64), km.Preprocessing((192, 192)), km.SlidingWindow((64, 64)))
found["wide"] = km.predict(wide, rng.integers(0, 256, (192, 192, 3), dtype="uint8"))
np.savez(sys.argv[2], **found)

sizes = []  # of the parts: a batch too small for all goes to one
seen = shared_out(lambda x: tf.py_function(lambda y: sizes.append(len(y)) or y, [x], x.dtype),
                  pictures.devices)
for n in (1, count, 2 * count + 1):
    x = tf.range(n)
    np.testing.assert_array_equal(tf.function(seen)(x), x)
print(sorted(sizes))
"""


def test_masks_are_those_of_one_device(tmp_path):
    def predicted(count):
        file = tmp_path / f"{count}.npz"
        command = [sys.executable, "-c", CODE, str(count), str(file)]
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return np.load(file), done.stdout.split("\n")[-2]

    (one, _), (three, parts) = predicted(1), predicted(3)
    assert parts == "[1, 1, 1, 1, 2, 2, 3]"
    assert set(one) == set(three)
    for name in one:
        np.testing.assert_allclose(three[name], one[name], atol=1e-5)
        np.testing.assert_array_equal(three[name].argmax(-1), one[name].argmax(-1))
