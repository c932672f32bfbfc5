"""The files in `torch_files` were written by PyTorch 2.13.0:

    w = {"module.transposed": torch.arange(6.).reshape(2, 3).T, "half": torch.arange(3).half() / 4,
         "bfloat16": torch.arange(6).bfloat16()[::2], "double": torch.tensor(2.5).double(),
         "counter": torch.tensor(7), "byte": torch.arange(3).byte(),
         "parameter": torch.nn.Parameter(torch.ones(1, 2)), "empty": torch.zeros(0)}
    torch.save({"state_dict": w, "epoch": 3}, "zip.pt")
    torch.save(w, "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"weight": torch.ones(1), "layer": torch.nn.ReLU()}, "module.pt")
"""

import os
import pickle
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_meduda.models import load_torch_weights
from keras_meduda.models.torch_weights import expected_shapes, read

FILES = Path(__file__).parent / "torch_files"
CONTENT = {
    "transposed": np.array([[0, 3], [1, 4], [2, 5]], "float32"),
    "half": np.array([0, 0.25, 0.5], "float16"),
    "bfloat16": np.array([0, 2, 4], "float32"),
    "double": np.array(2.5),
    "counter": np.array(7),
    "byte": np.array([0, 1, 2], "uint8"),
    "parameter": np.ones((1, 2), "float32"),
    "empty": np.zeros(0, "float32"),
}


def assert_same(received, expected):
    assert received.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(received[key], expected[key], strict=True)


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_reads_what_pytorch_wrote(name):
    assert_same(read(FILES / name), CONTENT)


def test_reads_npz(tmp_path):
    np.savez(tmp_path / "weights.npz", **CONTENT)
    assert_same(read(tmp_path / "weights.npz"), CONTENT)


def test_refuses_other_classes_by_name():
    with pytest.raises(ValueError, match=r"module\.pt.*torch\.nn\.modules\.activation\.ReLU"):
        read(FILES / "module.pt")


class HistoryBuffer(list):
    """Like MMEngine's: an object of a class of its own that holds arrays."""

    def __init__(self):
        super().__init__([1, 2])
        self.log = np.arange(3.0)

    def __setstate__(self, state):
        raise AssertionError("code of a checkpoint runs")


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_stands_beside_the_state_dict_is_passed_over(tmp_path):
    """A training checkpoint of MMSegmentation 1.x, by hand: `epoch` becomes such objects."""
    payload = Payload(tmp_path / "made")
    beside = {"log": HistoryBuffer(), "types": {HistoryBuffer}, "payload": payload}
    instead = pickle.dumps(beside, protocol=2)[2:-1]  # without its header and its end
    with zipfile.ZipFile(FILES / "zip.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry).replace(b"K\x03u.", instead + b"u."))
    assert b"HistoryBuffer" in (tmp_path / "a.pt").read_bytes()
    assert_same(read(tmp_path / "a.pt"), CONTENT)
    assert not (tmp_path / "made").exists()


def test_runs_no_code(tmp_path):
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    tree = {"weight": Payload(tmp_path / "made")}
    path = tmp_path / "payload.pt"
    path.write_bytes(b"".join(pickle.dumps(part) for part in (*header, tree, [])))
    with pytest.raises(ValueError, match=r"payload\.pt.*mkdir"):
        read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, -1])
def test_a_damaged_file_is_named(tmp_path, name, kept):
    content = (FILES / name).read_bytes()
    path = tmp_path / "damaged.pt"
    path.write_bytes(content[:int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(ValueError, match=r"damaged\.pt: expected a PyTorch state dict"):
        read(path)


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path):
    content = (FILES / "legacy.pt").read_bytes()
    stretched = content.replace(b"K\x02K\x01\x86q", b"K\x02K\x7f\x86q")
    assert stretched != content
    (tmp_path / "stretched.pt").write_bytes(stretched)
    with pytest.raises(ValueError, match="reaches beyond"):
        read(tmp_path / "stretched.pt")


@pytest.mark.parametrize(("layer", "shape", "axes"), [
    (layers.Conv2D(3, (4, 5), name="x"), (3, 2, 4, 5), (2, 3, 1, 0)),
    (layers.Conv2DTranspose(3, (4, 5), name="x"), (2, 3, 4, 5), (2, 3, 1, 0)),
    (layers.DepthwiseConv2D((4, 5), name="x"), (2, 1, 4, 5), (2, 3, 0, 1)),
    (layers.Dense(3, name="x"), (3, 2), (1, 0)),
])
def test_kernels_are_permuted(fill, layer, shape, axes):
    image = keras.Input((8, 8, 2))
    network = keras.Model(image, layer(image))
    assert expected_shapes(network) == {"x.weight": shape, "x.bias": layer.bias.shape}
    weights = fill(expected_shapes(network))
    load_torch_weights(network, weights)
    np.testing.assert_array_equal(layer.kernel, weights["x.weight"].transpose(axes))


@pytest.fixture
def network():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(3, 3, name="block.conv")(image)
    x = layers.BatchNormalization(name="block.norm")(x)
    return keras.Model(image, layers.PReLU(shared_axes=[1, 2, 3], name="block.slope")(x))


def test_norms_and_slopes_are_mapped(network, fill):
    assert expected_shapes(network) == {
        "block.conv.weight": (3, 2, 3, 3), "block.conv.bias": (3,),
        "block.norm.weight": (3,), "block.norm.bias": (3,),
        "block.norm.running_mean": (3,), "block.norm.running_var": (3,),
        "block.slope.weight": (1,),
    }
    weights = fill(expected_shapes(network))
    load_torch_weights(network, weights)
    norm = network.get_layer("block.norm")
    np.testing.assert_array_equal(norm.gamma, weights["block.norm.weight"])
    np.testing.assert_array_equal(norm.beta, weights["block.norm.bias"])
    np.testing.assert_array_equal(norm.moving_mean, weights["block.norm.running_mean"])
    np.testing.assert_array_equal(norm.moving_variance, weights["block.norm.running_var"])


def test_counters_and_second_names_are_ignored(network, fill):
    weights = fill(expected_shapes(network))
    extra = {"block.norm.num_batches_tracked": np.array(5),
             "shared.weight": weights["block.conv.weight"]}
    load_torch_weights(network, {**weights, **extra})


@pytest.mark.parametrize(("change", "message"), [
    ({"block.conv.bias": None}, r"block\.conv\.bias: received nothing, expected shape \(3,\)"),
    ({"block.conv.bias": np.zeros(4)}, r"received shape \(4,\), expected shape \(3,\)"),
    ({"head.bias": np.zeros(4)}, r"head\.bias: received shape \(4,\), expected no such key"),
])
def test_weights_that_do_not_fit_change_nothing(network, fill, change, message):
    weights = {**fill(expected_shapes(network)), **change}
    before = network.get_weights()
    with pytest.raises(ValueError, match=message):
        load_torch_weights(network, {k: v for k, v in weights.items() if v is not None})
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
