"""The exported model alone gives what the library gives."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_meduda as km
from keras_meduda.data.io import write_mask
from keras_meduda.data.serving import preprocess, resize
from keras_meduda.run import Run
from keras_meduda.run.saved_model import _mask, _values

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
served = tf.saved_model.load(sys.argv[1]).signatures
for name in sys.argv[2:]:
    image = tf.constant(np.load(name))
    files = tf.stack([tf.io.encode_png(single) for single in image])
    answers = {
        **served["serving_default"](image=image),
        **served["predict_mask"](image=image),
        "png": tf.map_fn(
            tf.io.decode_png,
            served["predict_png"](image_bytes=files)["mask_bytes"],
            fn_output_signature="uint8",
        ),
    }
    np.savez(name + ".npz", **{k: v.numpy() for k, v in answers.items()})
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
            assert set(maps) == {"cup", "disc", "mask", "png"}
            for i, name in enumerate(run.task.classes):
                np.testing.assert_allclose(maps[name], expected[..., i], atol=1e-5)
            served = np.stack([maps[name] for name in run.task.classes], axis=-1)
            masks = run.task.decode(run.task.masks(served))
            np.testing.assert_array_equal(maps["mask"], masks)
            np.testing.assert_array_equal(maps["png"][..., 0], masks)


def test_the_difference_to_prediction_is_one_of_rounding(run, exported):
    """Training and prediction resize and equalise on the CPU, the served graph does it itself."""
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    for shape in SHAPES:
        image = images(shape)
        maps = served(image=tf.constant(image))
        ours = np.stack([km.predict(run, single) for single in image])
        served_maps = np.stack([maps[name] for name in run.task.classes], axis=-1)
        assert np.abs(served_maps - ours).max() < 0.02


def bright(folder, channels, **values):
    """A run whose mask is where the first channel is bright: it shows every level of grey."""
    x = keras.Input((64, 64, channels))
    network = keras.Model(x, {"logits": keras.layers.Rescaling(1e3)(x[..., :1])})
    task = km.Task(("bright",), overlapping=True, **values)
    return Run(folder, network, task, km.Preprocessing((64, 64), (), channels=channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_file_is_decoded_as_prediction_reads_it(tmp_path, ending, channels):
    run, file = bright(tmp_path, channels), tmp_path / f"photograph.{ending}"
    Image.fromarray(images((1, 64, 64, 3))[0]).save(file)
    served = tf.saved_model.load(str(km.export(run, tmp_path / "1"))).signatures["predict_png"]
    mask = tf.io.decode_png(served(image_bytes=tf.io.read_file(str(file))[None])["mask_bytes"][0])
    np.testing.assert_array_equal(mask, run.task.masks(km.predict(run, file)))


@pytest.mark.parametrize(("channels", "signatures"), [(1, 3), (2, 2), (4, 3)])
def test_files_are_served_where_they_can_have_the_channels(tmp_path, channels, signatures):
    pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")
    exported = km.export(bright(tmp_path, channels), tmp_path / "1", warm_up=[(40, 50)])
    served = tf.saved_model.load(str(exported)).signatures
    assert ("predict_png" in served) == (channels != 2)
    records = tf.data.TFRecordDataset(f"{exported}/assets.extra/tf_serving_warmup_requests")
    assert len(served) == len(list(records)) == signatures


@pytest.mark.parametrize(
    "task",
    [
        km.Task(("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)}),
        km.Task(("a", "b", "c"), overlapping=True, threshold=0.7),
        km.Task(("a", "b"), values={"a": (300,), "b": (7,)}, background=(9,)),
    ],
)
def test_masks_in_the_graph_are_those_of_the_task(task):
    maps = np.random.default_rng(0).random((2, 9, 8, task.channels), "float32")
    expected = task.decode(task.masks(maps))
    found = _mask(tf.constant(maps), task, _values(task)).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("background", [0, "#0000ff"])
def test_masks_of_colours_are_served_as_they_are_written(tmp_path, background):
    values = {"values": {"bright": ("#ff8000",)}, "background": (background,)}
    run, file = bright(tmp_path, 3, **values), tmp_path / "photograph.png"
    image = images((1, 64, 64, 3))
    Image.fromarray(image[0]).save(file)
    written = write_mask(tmp_path / "mask", run.task.decode(run.task.masks(km.predict(run, file))),
                         like=file)
    served = tf.saved_model.load(str(km.export(run, tmp_path / "1"))).signatures
    png = served["predict_png"](image_bytes=tf.io.read_file(str(file))[None])["mask_bytes"][0]
    expected = np.asarray(Image.open(written))
    assert expected.shape == (64, 64, 3) and len(np.unique(expected.reshape(-1, 3), axis=0)) == 2
    np.testing.assert_array_equal(tf.io.decode_png(png), expected)
    mask = served["predict_mask"](image=tf.constant(image))["mask"]
    np.testing.assert_array_equal(mask, expected[None])


def test_values_that_no_picture_holds_are_refused(tmp_path):
    run = bright(tmp_path, 3, values={"bright": ("#ff8000",)}, background=(300,))
    with pytest.raises(ValueError, match="expected numbers below 256 beside colours"):
        km.export(run, tmp_path / "1")
    assert not list(tmp_path.iterdir())


def test_every_warm_up_request_is_answered(run, tmp_path):
    """As the server does it before it takes the model into service."""
    pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")
    from tensorflow_serving.apis import prediction_log_pb2

    exported = km.export(run, tmp_path / "1", warm_up=[(40, 50), (64, 64)])
    signatures = tf.saved_model.load(str(exported)).signatures
    file = exported / "assets.extra" / "tf_serving_warmup_requests"
    asked = []
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        name = request.model_spec.signature_name
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        answer = signatures[name](**inputs)
        assert all(v.shape[0] == 1 for v in answer.values())
        asked.append(name)
    assert asked == ["serving_default", "predict_mask", "predict_png"] * 2


@pytest.mark.parametrize("size", [(64,), (64, 64, 64)])
def test_a_warm_up_of_another_rank_is_refused(run, tmp_path, size):
    with pytest.raises(ValueError, match=r"received the size \(64,.*, expected \(H, W\)"):
        km.export(run, tmp_path / "1", warm_up=[(64, 64), size])
    assert not list(tmp_path.iterdir())


def test_saved_model_cli_shows_the_signatures(exported):
    cli = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    done = subprocess.run(
        [
            cli,
            "show",
            "--dir",
            str(exported),
            "--all",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inputs['image'] tensor_info" in done.stdout and "DT_UINT8" in done.stdout
    for text in ("['cup']", "['disc']", "['mask']", "['mask_bytes']", "['predict_png']"):
        assert text in done.stdout


def test_what_is_there_is_not_overwritten(run, exported):
    before = json.dumps(sorted(p.name for p in exported.iterdir()))
    with pytest.raises(FileExistsError, match="choose another folder"):
        km.export(run, exported)
    assert json.dumps(sorted(p.name for p in exported.iterdir())) == before
