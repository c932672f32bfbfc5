"""An ONNX or LiteRT file gives the network's probabilities in its own runtime."""

import pytest

import keras_meduda as km
from keras_meduda.exchange import export_network, parity

RUNTIMES = {".onnx": ("tf2onnx", "onnxruntime"), ".tflite": ("ai_edge_litert",)}


@pytest.mark.parametrize("suffix", RUNTIMES)
@pytest.mark.parametrize("overlapping", [True, False])
def test_parity(suffix, overlapping, run, tmp_path):
    for module in RUNTIMES[suffix]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    classes = ("a", "b")
    network = km.models.AERUNet((32, 32, 3), 2 if overlapping else 3, filters=(4, 8))
    run = km.training.Run(tmp_path, network, km.Task(classes, overlapping), run.preprocessing)
    path = export_network(run, tmp_path / f"network{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert parity(run, path) < 1e-5
    network.set_weights([weight + 0.1 for weight in network.get_weights()])
    assert parity(run, path) > 1e-3


def test_another_ending_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"received the ending '.pb', expected \['.onnx'"):
        export_network(run, tmp_path / "network.pb")
