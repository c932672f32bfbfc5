"""`recipes/ratlesnet.py`: what a transfer keeps, MONAI's networks, the mouse study's means."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.phantoms import write_brain
from keras_meduda.experiment.lesions import as_the_mouse_study
from keras_meduda.experiment.runner import run
from keras_meduda.recipes import ratlesnet


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """The case table of twelve tiny brains in each of two contrasts."""
    return write_brain(tmp_path_factory.mktemp("brains"), 12, (16, 20, 12))


def flags(brains, out, **changes):
    settings = {"cases": brains, "train_domain": "t2", "epochs": 1, "epoch": 2, **changes}
    return ratlesnet.Flags(out=out, **settings)


def train(flags, change=lambda recipe: recipe):
    data = ratlesnet.data(flags)
    return run(change(ratlesnet.recipe(flags, data)), data, flags)["trained"]


def weights_of(network):
    return {w.path: np.array(w) for w in network.weights}


def test_a_partial_transfer_starts_from_the_weights_and_keeps_the_encoder(brains, tmp_path, capsys):
    start = km.models.RatLesNetV2((20, 16, 12, 1), 2)
    start.save_weights(tmp_path / "rats.weights.h5")
    init = tmp_path / "rats.weights.h5"
    chosen = flags(brains, tmp_path / "run", transfer="partial", init=init, train_size=3)
    trained = train(chosen)
    assert trained.network.start.startswith("rats.weights.h5, SHA-256 ")
    assert "669,378 of 837,026 parameters train" in capsys.readouterr().out
    before, after = weights_of(start), weights_of(trained.network)
    frozen = ("conv1", "block1", "block2", "block3", "bottleneck1")
    for path, value in before.items():
        stays = path.split("/")[0].split(".")[0] in frozen
        assert np.array_equal(after[path], value) == stays, path
    assert len(list((tmp_path / "run" / "prepared").glob("*.image"))) == 3


def test_islands_flips_and_slices_are_told(brains, tmp_path):
    train(flags(brains, tmp_path, flips="X", test_domain="flair"))
    assert "islands and holes below 20 voxels are removed" in (tmp_path / "report.html").read_text()
    for name in ("test", "flair"):
        slices = {path.name for path in (tmp_path / "evaluation" / name / "slices").iterdir()}
        assert slices == {"best.png", "median.png", "worst.png"}
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["dice"].notna().sum() == 1, "the validation that chooses the weights"


def test_dynunet_trains_on_patches_with_deep_supervision(brains, tmp_path):
    chosen = flags(
        brains, tmp_path, model="dynunet", patch=(16, 16, 8), loss="mouse_dice", augment=True,
        augment_intensity=True,
    )  # fmt: skip
    levels = {"kernel_sizes": (3, 3, 3), "strides": (1, 2, 2), "filters": (4, 4, 4)}
    narrow = partial(km.models.DynUNet, **levels, deep_supervision=1)
    trained = train(chosen, lambda recipe: replace(recipe, network=narrow))
    assert trained.preprocessing.axes == "XYZ" and trained.preprocessing.size == (16, 20, 12)
    assert trained.window.size == (16, 16, 8)
    row = pd.read_csv(tmp_path / "history.csv").iloc[-1]
    assert 0 < row["aux_1"] < row["segmentation"]  # of half the weight


def test_votes_of_other_data_are_refused_before_the_training(brains, tmp_path):
    train(flags(brains, tmp_path / "a", epoch=1))
    with pytest.raises(ValueError, match="has the preprocessing .* differ in their networks"):
        train(flags(brains, tmp_path / "b", vote=(tmp_path / "a",), axes="ZXY"))
    assert not (tmp_path / "b").exists()


def test_half_precision_on_a_processor_that_lacks_it(brains, tmp_path, meduda):
    words = ("--cases", brains, "--train-domain", "t2", "--smoke", "--precision", "mixed_float16")
    code, _, error = meduda("train", "ratlesnet", *words, "--out", tmp_path)
    assert code == 2 and "lacks an operation in half precision; expected --precision" in error


def test_two_empty_masks_score_0_as_in_the_mouse_study():
    frame = pd.DataFrame({
        "class": "lesion", "dice": [1.0, 0.5, 0.0], "hd95": [0.0, 2.0, 9.0],
        "prediction_empty": [True, False, True], "reference_empty": [True, False, False],
    })  # fmt: skip
    (line,) = as_the_mouse_study(None, None, frame, None)
    assert line.startswith("lesion, as the mouse study counts")
    assert line.endswith("Dice 0.167, HD95 2.000 mm")
    assert not list(as_the_mouse_study(None, None, frame[1:2], None))
