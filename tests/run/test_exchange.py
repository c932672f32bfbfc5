"""An ONNX or LiteRT file gives the network's probabilities in its own runtime."""

import pytest

import keras_meduda as km
from keras_meduda.run.exchange import export_network, parity

RUNTIMES = {".onnx": ("tf2onnx", "onnxruntime"), ".tflite": ("ai_edge_litert",)}


@pytest.mark.parametrize("suffix", RUNTIMES)
@pytest.mark.parametrize("overlapping", [True, False])
def test_parity(suffix, overlapping, run, tmp_path):
    for module in RUNTIMES[suffix]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    classes = ("a", "b")
    network = km.models.AERUNet((32, 32, 3), 2 if overlapping else 3, filters=(4, 8))
    run = km.run.Run(tmp_path, network, km.Task(classes, overlapping), run.preprocessing)
    path = export_network(run, tmp_path / f"network{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert parity(run, path) < 1e-5
    network.set_weights([weight + 0.1 for weight in network.get_weights()])
    assert parity(run, path) > 1e-3


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_network_in_half_precision_is_written_in_float32(suffix, run, tmp_path):
    for module in RUNTIMES[suffix]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    with km.setup(precision="mixed_bfloat16"):
        network = km.models.AERUNet((32, 32, 3), 2, filters=(4, 8))
    half = km.run.Run(tmp_path, network, run.task, run.preprocessing)
    path = export_network(half, tmp_path / f"network{suffix}")
    assert network.get_layer("features").compute_dtype == "bfloat16"
    assert parity(half, path) < 0.02


def test_unetr_has_no_operation_that_onnx_lacks(tmp_path):
    for module in RUNTIMES[".onnx"]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    network = km.models.UNETR((16, 16, 16, 1), 2, hidden=24, heads=2, mlp=24, feature_size=4)
    settings = km.Preprocessing((16, 16, 16), normalise="zscore", channels=1, axes="XYZ")
    run = km.run.Run(tmp_path, network, km.Task(("a",)), settings)
    assert parity(run, export_network(run, tmp_path / "network.onnx")) < 1e-4


def test_a_file_that_its_runtime_cannot_load_is_not_left(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the extra `export` is not installed")
    network = km.models.RatLesNetV2((8, 8, 8, 1), 2)
    settings = km.Preprocessing((8, 8, 8), normalise="zscore", channels=1, axes="XYZ")
    run = km.run.Run(tmp_path, network, km.Task(("a",)), settings)
    with pytest.raises(ValueError, match="network.tflite: the runtime of such files cannot load"):
        export_network(run, tmp_path / "network.tflite")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"received the ending '.pb', expected \['.onnx'"):
        export_network(run, tmp_path / "network.pb")
