import math
import os
from pathlib import Path

import numpy as np
import pytest

from keras_meduda.models import RatLesNetV2, load_torch_weights
from keras_meduda.models.torch_weights import read

VOLUME = (None, None, None, 1)


def test_logits_of_the_original(filled_outputs):
    network = RatLesNetV2(VOLUME, channels=2)
    assert sum(math.prod(variable.shape) for variable in network.trainable_weights) == 837_026
    logits = filled_outputs(network, (1, 1, 9, 20, 22))["logits"]
    np.testing.assert_allclose(
        [logits.mean(), logits.std(ddof=1), logits.min(), logits.max(), *logits.ravel()[:3]],
        [-0.294532, 1.072339, -2.834494, 1.412234, 0.080199, 0.085776, 0.094578], atol=1e-5)
    lesion = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert lesion.mean() == pytest.approx(0.4400395, abs=1e-6)


def phantom():
    z, y, x = np.mgrid[:18, :64, :64].astype("float64")
    brain = np.exp(-(((y - 32) / 20) ** 2 + ((x - 32) / 20) ** 2 + ((z - 9) / 7) ** 2))
    lesion = np.exp(-(((y - 32) / 6) ** 2 + ((x - 44) / 6) ** 2 + ((z - 9) / 3) ** 2))
    volume = brain + 1.5 * lesion + 0.02 * np.sin(0.5 * x + 0.3 * y + 0.7 * z)
    return ((volume - volume.mean()) / volume.std()).astype("float32")


@pytest.fixture(scope="module")
def released():
    """`released(file) -> network` with the released weights of that name."""
    data = os.environ.get("MEDUDA_DATA")
    folder = Path(data or ".").resolve().parent / "ratlesnet_weights"
    if not data or not folder.is_dir():
        pytest.skip("RatLesNetV2's released weights are read from ratlesnet_weights/ beside the "
                    "folder that MEDUDA_DATA names")

    def build(file):
        network = RatLesNetV2(VOLUME, channels=2)
        load_torch_weights(network, read(folder / file))
        return network
    return build


@pytest.mark.parametrize(("file", "moments", "first", "voxels", "volume", "turned", "changed"), [
    ("homogeneous-1.pt", [3.128505, 15.8523], [22.529438, 30.661335, 28.109264], 4205, 4205.754,
     1314, 3235),
    ("enlarging11-1.pt", [-0.917769, 7.354786], [5.382561, 4.593671, 4.238440], 3428, 3458.545,
     0, 3428),
])
def test_released_weights(released, file, moments, first, voxels, volume, turned, changed):
    network, image = released(file), phantom()
    logits = np.asarray(network(image[None, ..., None])["logits"], "float64")[0]
    np.testing.assert_allclose([logits.mean(), logits.std(ddof=1)], moments, rtol=1e-4)
    np.testing.assert_allclose(logits[0, 0, :3, 0], first, rtol=1e-4)
    lesion = logits[..., 1] > logits[..., 0]
    assert lesion.sum() == voxels
    probability = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    assert probability.sum() == pytest.approx(volume, abs=0.05)
    # Slices last instead of first: the network is not isotropic in what it learnt.
    logits = np.asarray(network(image.transpose(1, 2, 0)[None, ..., None])["logits"])[0]
    other = (logits[..., 1] > logits[..., 0]).transpose(2, 0, 1)
    assert (other.sum(), (other != lesion).sum()) == (turned, changed)
