"""The exported model alone gives what the library gives."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.data.serving import preprocess, resize

SHAPES = [(1, 40, 50, 3), (3, 64, 64, 3), (2, 33, 21, 3)]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return km.export(run, tmp_path_factory.mktemp("export") / "1")


def images(shape):
    smooth = np.random.default_rng(0).normal(size=(shape[0], 5, 5, 3))
    return np.clip(resize(smooth, shape[1:3]) * 60 + 128, 0, 255).astype("uint8")


BARE = """
import json, sys
sys.modules["keras_meduda"] = sys.modules["keras"] = None  # neither can be imported
import numpy as np
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for name in sys.argv[2:]:
    maps = served(image=tf.constant(np.load(name)))
    np.savez(name + ".npz", **{k: v.numpy() for k, v in maps.items()})
"""


def test_a_process_without_the_library_serves_the_same(run, exported, tmp_path):
    files = []
    for i, shape in enumerate(SHAPES):
        files.append(str(tmp_path / f"{i}.npy"))
        np.save(files[-1], images(shape))
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(exported), *files], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for shape, file in zip(SHAPES, files, strict=True):
        expected = resize(
            run.probabilities(preprocess(images(shape), run.preprocessing)), shape[1:3]
        ).numpy()
        with np.load(file + ".npz") as maps:
            assert set(maps) == {"cup", "disc"}
            for i, name in enumerate(run.task.classes):
                np.testing.assert_allclose(maps[name], expected[..., i], atol=1e-5)


def test_the_difference_to_prediction_is_one_of_rounding(run, exported):
    """Training and prediction resize and equalise on the CPU, the served graph does it itself."""
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    for shape in SHAPES:
        image = images(shape)
        maps = served(image=tf.constant(image))
        ours = np.stack([km.predict(run, single) for single in image])
        served_maps = np.stack([maps[name] for name in run.task.classes], axis=-1)
        assert np.abs(served_maps - ours).max() < 0.02


def test_saved_model_cli_shows_the_signature(exported):
    cli = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    done = subprocess.run(
        [
            cli,
            "show",
            "--dir",
            str(exported),
            "--tag_set",
            "serve",
            "--signature_def",
            "serving_default",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inputs['image'] tensor_info" in done.stdout and "DT_UINT8" in done.stdout
    assert "outputs['cup']" in done.stdout and "outputs['disc']" in done.stdout


def test_what_is_there_is_not_overwritten(run, exported):
    before = json.dumps(sorted(p.name for p in exported.iterdir()))
    with pytest.raises(FileExistsError, match="choose another folder"):
        km.export(run, exported)
    assert json.dumps(sorted(p.name for p in exported.iterdir())) == before
