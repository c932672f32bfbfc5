"""SAM2 of zeromodels as a teacher: a small network with random weights, no download."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("zeromodels", reason="the extra `sam2_keras` is not installed")

from zeromodels.models.sam2 import SAM2Processor, SAM2PromptableSegment

from keras_meduda.teachers.sam2_keras import sam2_keras

SMALL = {
    "hidden_dim": 8,
    "blocks_per_stage": (1, 1, 1, 1),
    "embed_dim_per_stage": (8, 16, 32, 64),
    "num_attention_heads_per_stage": (1, 1, 1, 1),
    "window_size_per_stage": (4, 4, 4, 4),
    "global_attention_blocks": (2,),
    "backbone_channel_list": (64, 32, 16, 8),
    "include_box_input": True,
}
BOXES = np.array([[5.0, 5.0, 20.0, 20.0], [30.0, 10.0, 60.0, 40.0]])


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return SAM2PromptableSegment(**SMALL, multimask_output=False)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam2") / "small.keras"
    network.save(path)
    return path


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype("uint8")


def test_a_box_has_the_mask_that_the_whole_network_gives(network, file, image):
    """The teacher encodes once and decodes apart; the network does both at once."""
    teacher = sam2_keras(file)
    maps, quality, features = teacher.segment(image, BOXES)
    asked = SAM2Processor()(image, input_boxes=BOXES.astype("float32"))
    whole = network({name: asked[name] for name in network.input})
    logits = np.asarray(whole["pred_masks"])[0, :, 0]
    np.testing.assert_allclose(maps, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert maps.shape == (2, 256, 256) and features.shape == (64, 64, 256)
    assert ((quality >= 0) & (quality <= 1)).all()
    assert file.name in teacher.version and "1024 px" in teacher.version
    target = teacher.teach(image, BOXES)
    assert target.probability.shape == (50, 70)


def test_boxes_are_asked_one_by_one_or_together(file, image):
    segment = sam2_keras(file).segment
    together, alone = segment(image, BOXES)[0], [segment(image, BOXES[i : i + 1]) for i in (0, 1)]
    np.testing.assert_allclose(together, np.concatenate([one[0] for one in alone]), atol=1e-5)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; expected a network of zeromodels"):
        sam2_keras(tmp_path / "none.keras")
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="expected zeromodels' SAM2PromptableSegment with"):
        sam2_keras(tmp_path / "other.keras")
    for change in ({}, {"multimask_output": False, "image_size": 64}):
        SAM2PromptableSegment(**SMALL, **change).save(tmp_path / "other.keras")
        with pytest.raises(ValueError, match="multimask_output=False and image_size=1024"):
            sam2_keras(tmp_path / "other.keras")


@pytest.mark.slow
def test_another_backend_draws_the_same_masks(file, image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "boxes.npy", BOXES)
    code = (
        "import sys, numpy as np, pathlib\n"
        "from keras_meduda.teachers.sam2_keras import sam2_keras\n"
        "here = pathlib.Path(sys.argv[2])\n"
        "image, boxes = (np.load(here / f'{n}.npy') for n in ('image', 'boxes'))\n"
        "np.save(here / 'maps.npy', sam2_keras(sys.argv[1]).segment(image, boxes)[0])\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", code, str(file), str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    here = sam2_keras(file).segment(image, BOXES)[0]
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), here, atol=1e-5)
