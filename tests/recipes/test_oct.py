"""`recipes/oct.py`: the published settings, one path of each kind, and a user's mistakes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.augment import Geometry, RandomCrop
from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import read_mask
from keras_meduda.data.phantoms import write_oct
from keras_meduda.experiment.bscans import PUBLISHED, published
from keras_meduda.experiment.runner import run
from keras_meduda.losses import cross_entropy, focal_loss, joint_dice_loss
from keras_meduda.models.stages import leaves
from keras_meduda.models.torch_weights import expected_shapes
from keras_meduda.recipes import oct
from keras_meduda.run import Run


@pytest.mark.parametrize(
    ("preset", "steps", "crop", "loss", "aux", "optimizer", "l2"),
    [
        ("steps_200", 200, None, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("steps_400", 400, None, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("flip", 400, None, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("crop_192", 400, 192, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("crop_224", 400, 224, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("crop_320", 400, 320, cross_entropy, 0.4, "SGDWithL2", 5e-4),
        ("dice", 400, 320, joint_dice_loss, 1.0, "SGDWithL2", 5e-4),
        ("focal", 400, 320, focal_loss, 1.0, "SGDWithL2", 5e-4),
        ("adam", 400, 320, cross_entropy, 0.4, "AdamWithL2", 5e-4),
        ("best", 400, 320, cross_entropy, 0.4, "SGDWithL2", 1e-4),
        ("l2_1e-3", 400, 320, cross_entropy, 0.4, "SGDWithL2", 1e-3),
    ],
)
def test_presets_are_the_rows_of_the_published_table(preset, steps, crop, loss, aux, optimizer, l2):
    row = published(512, "psp", **PUBLISHED[preset])
    assert (row["steps"], row["batch_size"], row["loss"]) == (steps, 2, loss)
    assert row["aux_weights"] == {"aux_1": aux}
    made = row["optimizer"](row["steps"])
    assert (type(made).__name__, made.l2) == (optimizer, l2)
    cut = row["batches"]["crop"]
    assert cut is None if crop is None else (cut.size, cut.max_share) == ((crop, crop), 0.75)
    still = Geometry(flip=preset == "flip", rotation=0.0, scale=0.0, shift=0.0)
    assert row["batches"]["geometry"] == still and set(row["batches"]) == {"geometry", "crop"}
    assert row["window"].starts((512, 512)) == [[0, 170, 256]] * 2


def test_the_published_network_is_normalised_as_mmsegmentation_does():
    x = published(4, "psp")["preprocessing"].apply(np.full((4, 4, 1), 200, "uint8"))
    expected = (200 - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(x[0, 0], expected, rtol=1e-5)


def train(out, **changes):
    """The runs of a smoke training, or of a checkpoint that is evaluated."""
    flags = oct.Flags(out=out, smoke=True, size=32, **changes)
    data = oct.data(flags)
    return run(oct.recipe(flags, data), data, flags)


def scored(folder):
    """Cases of an evaluation."""
    return set(pd.read_csv(folder / "cases.csv")["case"])


def test_train_then_fine_tune_then_evaluate_a_checkpoint(tmp_path, capsys):
    train(tmp_path / "a")
    folder = tmp_path / "a" / "evaluation" / "test"
    assert {p.name for p in folder.iterdir()} == {"cases.csv", "summary.json", "totals.json"}
    assert set(json.loads((folder / "totals.json").read_text())["dice"]) == {"background", "fluid"}
    table = tmp_path / "a" / "phantoms" / "oct_3_2_128_0" / "cases.csv"
    cases = km.read_cases(table)
    assert scored(folder) == set(cases.loc[cases["split"] == "test", "case"])
    start = {"init": tmp_path / "a", "cases": table}
    train(tmp_path / "b", train="decoder", **start)
    digest = hashlib.sha256((tmp_path / "a" / "network.keras").read_bytes()).hexdigest()
    began = json.loads((tmp_path / "b" / "config.json").read_text())["weights"]
    assert began == f"network.keras, SHA-256 {digest}"
    said = capsys.readouterr().out
    assert "parameters train (decoder); batch norm frozen outside of it" in said
    a, b = (km.load(tmp_path / name).network for name in "ab")
    moved = [not np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True)]
    assert not moved[0] and moved[-1]
    train(tmp_path / "c", initial_inference=True, **start)
    assert scored(tmp_path / "c" / "evaluation" / "initial") == set(cases["case"])
    assert not (tmp_path / "c" / "network.keras").exists()


def test_an_encoder_of_keras_gets_grey_images_in_its_range_and_a_rate_of_its_own(tmp_path):
    encoder = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(224, 224, 3)
    )
    encoder.save_weights(tmp_path / "encoder.weights.h5")
    start = {"backbone": "mobilenetv2", "weights": str(tmp_path / "encoder.weights.h5")}
    run = train(tmp_path / "run", encoder_rate=0.0, **start)["trained"]
    assert run.preprocessing.normalise == "minus1_1" and run.preprocessing.channels == 1
    assert "encoder.weights.h5" in run.network.start
    own = {layer.name: layer for layer in leaves(run.network)}
    kernel = encoder.get_layer("block_3_expand").get_weights()[0]
    moved = own["block_3_expand"].get_weights()[0]
    np.testing.assert_allclose(moved, kernel, rtol=1e-3)  # weight decay alone has the whole rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": Path("a"), "cases": Path("b")}, "both --root and --cases"),
        ({"split": "published", "cases": Path("b")}, "--split needs --root"),
        ({"fold": 99, "cases": Path("b")}, "--fold needs --folds or --split subject"),
        ({"fold": 99, "root": Path("a")}, "--fold needs --folds or --split subject"),
        ({"fluid": (2,), "root": Path("a")}, "--fluid needs --cases"),
        ({"preset": "best", "backbone": "mobilenetv2"}, "best has an encoder of its own"),
        ({"head": "fcn"}, "--head needs a --preset of the published table"),
        ({"train": "decoder", "encoder_rate": 0.1}, "'encoder' has the factor 0.1, but is frozen"),
        ({"initial_inference": True}, "evaluates a checkpoint: name it with --init"),
        ({"root": Path("nowhere")}, "nowhere: found no such folder, expected Subject_<n>.mat"),
        ({"init": Path("nowhere.keras")}, "nowhere.keras: no such checkpoint"),
        ({"train": "bottleneck"}, "no layer of 'bottleneck'; expected one of encoder, decoder"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(tmp_path, **changes)
    assert not (tmp_path / "config.json").exists()


class Nothing(Run):
    """A run that finds no class anywhere."""

    def probabilities(self, x):
        p = np.zeros((*x.shape[:-1], self.task.channels), "float32")
        p[..., 0] = not self.task.overlapping
        return p


def test_totals_name_their_classes_and_leave_out_overlapping_ones(tmp_path):
    cases = km.read_cases(write_oct(tmp_path, 1, 2, size=32))
    alone, both = km.Task(("cyst",)), km.Task(("a", "b"), True, {"a": (1,), "b": (1,)})
    runs = [Nothing(tmp_path, None, task, km.Preprocessing((32, 32))) for task in (alone, both)]
    (note,) = oct.totals(runs[0], cases, None, tmp_path)
    assert "mean Dice of background and cyst " in note
    assert not list(oct.totals(runs[1], cases, None, tmp_path / "both"))


def test_a_checkpoint_of_mmsegmentation_is_evaluated_as_it_is(tmp_path):
    """Its last bias alone decides: all is fluid, so that the share of fluid is the IoU."""
    shapes = expected_shapes(km.models.UNetS5D16((None, None, 3), channels=2))
    state = {key: np.full(shape, key.endswith("var"), "float32") for key, shape in shapes.items()}
    state["decode_head.conv_seg.bias"][:] = -1, 1
    np.savez(tmp_path / "pspnet.npz", **state, **{"backbone.bn.num_batches_tracked": 7})
    cases = km.read_cases(write_oct(tmp_path, 3, 2, size=32))
    write_cases(cases.assign(split="test"), tmp_path / "cases.csv")
    where = {"init": tmp_path / "pspnet.npz", "cases": tmp_path / "cases.csv"}
    train(tmp_path, preset="best", initial_inference=True, **where)
    folder = tmp_path / "evaluation" / "initial"
    assert scored(folder) == set(cases["case"]) and len(cases) == 6
    fluid = np.mean([read_mask(mask, km.Task(("fluid",))) for mask in cases["mask"]])
    iou = json.loads((folder / "totals.json").read_text())["iou"]
    assert iou == {"background": 0, "fluid": pytest.approx(fluid)}


def test_bscans_without_a_mask_are_left_out(tmp_path, capsys):
    table = write_oct(tmp_path, 3, 2, size=32)
    cases = km.read_cases(table)
    cases.loc[cases["split"] == "test", "mask"] = ""
    write_cases(cases, table)
    with pytest.raises(ValueError, match=r"cases.csv: no case of split test with a mask"):
        oct.data(oct.Flags(out=tmp_path / "run", cases=table))
    assert "B-scans have no mask and are left out" in capsys.readouterr().out


def test_a_crop_larger_than_the_image(tmp_path):
    flags = oct.Flags(out=tmp_path, smoke=True, size=32, preset="best")
    data = oct.data(flags)
    recipe = replace(oct.recipe(flags, data), batches={"crop": RandomCrop((40, 40))})
    with pytest.raises(ValueError, match=r"crop \(40, 40\) is larger than .* images \(32, 32\)"):
        run(recipe, data, flags)
