"""Which weights an adaptation begins with where its flags leave that open."""

import hashlib
import json

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

import keras_meduda as km
from keras_meduda.experiment.start import from_imagenet
from keras_meduda.models.encoders import kept_file
from keras_meduda.models.stages import leaves
from keras_meduda.recipes import adapt


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Keras' folder of downloads is empty, and nothing can be reached."""
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def encoder(offline):
    """An encoder whose file lies where Keras looks for ImageNet's."""
    size = (224, 224, 3)
    made = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=size)
    (offline / "models").mkdir()
    with h5py.File(kept_file("mobilenetv2"), "w") as file:
        save_weights_to_hdf5_group(file, made)
    return made


def flags(tmp_path, **given):
    return adapt.Flags(out=tmp_path / "run", **given)


def test_photographs_start_from_imagenet_where_keras_has_the_weights(encoder, tmp_path, capsys):
    started = from_imagenet(flags(tmp_path), volumes=False)
    assert (started.backbone, started.weights) == ("mobilenetv2", "imagenet")
    assert "starts from ImageNet's mobilenetv2" in capsys.readouterr().out
    network = km.models.AERUNet((32, 32, 3), 2, backbone="mobilenetv2", weights="imagenet")
    own = {layer.name: layer for layer in leaves(network)}
    kernel = encoder.get_layer("block_3_expand").get_weights()[0]
    np.testing.assert_array_equal(own["block_3_expand"].get_weights()[0], kernel)
    arrays = hashlib.sha256(b"".join(w.tobytes() for w in encoder.get_weights())).hexdigest()
    assert network.start.endswith(f"SHA-256 of its arrays {arrays[:12]}…")


def test_without_a_network_it_says_what_can_be_done_and_starts_at_random(tmp_path, capsys):
    asked = flags(tmp_path)
    assert from_imagenet(asked, volumes=False) == asked
    said = capsys.readouterr().out
    file = kept_file("mobilenetv2")
    assert "starts from random weights" in said and "--weights FILE" in said
    assert f"put the file {file.name} into {file.parent}" in said


def test_a_damaged_file_ends_the_run_and_is_no_reason_for_random_weights(encoder, tmp_path):
    kept_file("mobilenetv2").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="mobilenet_v2_.*; delete the file"):
        from_imagenet(flags(tmp_path), volumes=False)


@pytest.mark.parametrize(
    ("given", "volumes"),
    [
        ({"backbone": "resnet50"}, False),
        ({"network": "RatLesNetV2"}, True),
        ({"network": "DynUNet"}, False),
        ({"smoke": True}, False),
        ({"weights": "random"}, False),
        ({"weights": "random"}, True),
    ],
)
def test_what_is_settled_is_left_as_it_is(encoder, tmp_path, capsys, given, volumes):
    started = from_imagenet(flags(tmp_path, **given), volumes)
    assert (started.backbone, started.weights) == (given.get("backbone"), None)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("began", "backbone"), [(None, None), ("imagenet, …", "mobilenetv2")])
def test_a_run_goes_on_as_it_began(encoder, tmp_path, began, backbone):
    folder = tmp_path / "run" / "source_only"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"weights": began}))
    assert from_imagenet(flags(tmp_path), volumes=False).backbone == backbone
    assert from_imagenet(flags(tmp_path, resume=False), volumes=False).backbone == "mobilenetv2"
