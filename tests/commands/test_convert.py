"""`meduda convert`: what it writes is what was read, or nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.commands import convert as command
from keras_meduda.methods.finetuning import load_checkpoint
from keras_meduda.models.torch_weights import expected_shapes

PICKLED = Path(__file__).parents[1] / "models" / "torch_files" / "module.pt"


def convert(checkpoint, out, **changes):
    command.main(command.Flags(checkpoint=checkpoint, out=out, **changes))
    return out


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A state dict of RatLesNetV2 as training in PyTorch leaves it, counters included."""
    shapes = expected_shapes(km.models.RatLesNetV2((None, None, None, 1), 2))
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=shape).astype("float32") for key, shape in shapes.items()}
    arrays["block1.seq.1.num_batches_tracked"] = np.array(7)
    path = tmp_path_factory.mktemp("state") / "model.npz"
    np.savez(path, **{f"module.{key}": array for key, array in arrays.items()})
    return path


@pytest.mark.parametrize("name", ["r.weights.h5", "r.npz"])
def test_both_forms_give_the_network_of_the_checkpoint(state, tmp_path, name):
    out = convert(state, tmp_path / "made" / name)
    a, b = (km.models.RatLesNetV2((None, None, None, 1), 2) for _ in range(2))
    load_checkpoint(a, state)
    load_checkpoint(b, out)
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(list(out.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("network", "shape", "channels"),
    [
        ("unetpp", (None, None, 1), 1),
        ("deeplabv3plus", (None, None, 3), 2),
        ("unet_s5_d16", (None, None, 3), 2),
        ("unet", (None, None, None, 1), 2),
    ],
)
def test_a_network_knows_whether_it_is_of_pictures(tmp_path, network, shape, channels):
    made = command.build(
        command.Flags(tmp_path / "a.npz", tmp_path / "b.npz", network, channels)
    )
    assert made.input_shape == (None, *shape)
    assert made.output["logits"].shape[-1] == channels


def test_a_network_of_pictures_is_converted(tmp_path):
    network = km.models.UNetPlusPlus((None, None, 1), 2)
    zeros = {key: np.zeros(shape, "float32") for key, shape in expected_shapes(network).items()}
    np.savez(tmp_path / "a.npz", **zeros)
    out = convert(tmp_path / "a.npz", tmp_path / "b.weights.h5", network="unetpp")
    load_checkpoint(network, out)
    assert not any(np.any(weight) for weight in network.get_weights())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "unetpp", "dimensions": 3}, "unetpp is one of pictures: expected"),
        ({"checkpoint": PICKLED}, r"module\.pt.*torch\.nn\.modules\.activation\.ReLU"),
        ({"checkpoint": Path("lost.pt")}, r"lost\.pt: no such checkpoint"),
        ({"network": "unet"}, r"model\.npz: Received 98 entries, network 'unet' expects"),
        ({"channels": 3}, r"bottleneck4\.seq\.2\.weight: received shape \(2, 64, 1, 1, 1\)"),
        ({"out": Path("r.pth")}, r"r\.pth: expected a name that ends in \.weights\.h5 or \.npz"),
        ({"size": (32, 32)}, r"--size \(32, 32\): expected 3 numbers"),
        ({"network": "unetr"}, "UNETR learns a position for each patch"),
    ],
)
def test_what_is_refused_writes_nothing(state, tmp_path, changes, message):
    settings = {"checkpoint": state, "out": tmp_path / "r.weights.h5", **changes}
    with pytest.raises((ValueError, OSError), match=message):
        convert(**settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["homogeneous-1.pt", "enlarging11-1.pt"])
def test_released_weights(tmp_path, file):
    """The first weights are those that PyTorch prints of the file."""
    data = os.environ.get("MEDUDA_DATA")
    path = Path(data or ".").resolve().parent / "ratlesnet_weights" / file
    if not data or not path.is_file():
        pytest.skip(
            "RatLesNetV2's released weights are read from ratlesnet_weights/ beside the folder "
            "that MEDUDA_DATA names"
        )
    network = km.models.RatLesNetV2((None, None, None, 1), 2)
    load_checkpoint(network, convert(path, tmp_path / "r.weights.h5"))
    first = np.ravel(network.get_layer("conv1").kernel)[:3]
    expected = {
        "homogeneous-1.pt": [-0.443522751, 0.285356700, -1.011485457],
        "enlarging11-1.pt": [0.845899343, -3.073018551, 1.295013666],
    }[file]
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    assert convert(path, tmp_path / "r.npz").stat().st_size > 3e6
