"""A run that goes on finds what XLA compiled for it before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
import keras, numpy as np, tensorflow as tf
import keras_meduda as km
from keras_meduda.run import training

class Batches:
    task, settings = km.Task(("a",), overlapping=True), {}
    preprocessing = km.Preprocessing((16, 16), channels=1)
    def from_step(self, step):
        rng = np.random.default_rng(0)
        image = rng.normal(size=(2, 16, 16, 1)).astype("float32")
        batch = {"source": {"image": image, "mask": np.float32(image > 0)}}
        return tf.data.Dataset.from_tensors(batch).repeat()

class Config:  # as if a GPU were there: what is compiled is kept on a processor too
    def __getattr__(self, name):
        return getattr(tf.config, name)
    def list_physical_devices(self, kind):
        return ["GPU"]

class TensorFlow:
    config = Config()
    def __getattr__(self, name):
        return getattr(tf, name)

training.tf = TensorFlow()
with km.setup():
    network = km.models.AERUNet((16, 16, 1), channels=1, filters=(2, 4))
    method = km.methods.Supervised(network, overlapping=True)
    method.compile(keras.optimizers.Adam(1e-3))
km.fit(method, Batches(), steps=int(sys.argv[2]), run_dir=sys.argv[1], checkpoint_every=2)
"""


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_compiled_again(tmp_path):
    flag = f"--tf_xla_persistent_cache_directory={tmp_path / 'kept'}"
    for steps in ("2", "4", "6"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(tmp_path / "run"), steps],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_XLA_FLAGS": flag},
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(list((tmp_path / "kept").iterdir())) == 1
