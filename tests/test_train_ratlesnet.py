"""`scripts/train_ratlesnet.py`: its networks, a transfer, and a user's mistakes."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import case_table
from keras_meduda.data.phantoms import write_brain
from keras_meduda.data.subset import lesion_volumes

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_ratlesnet.py"
PICKLED = Path(__file__).parent / "models" / "torch_files" / "module.pt"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_ratlesnet", SCRIPT)
    module = sys.modules["train_ratlesnet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """The case table of twelve tiny brains in each of two contrasts."""
    return write_brain(tmp_path_factory.mktemp("brains"), 12, (16, 20, 12))


def flags(script, brains, out, **changes):
    settings = {"cases": brains, "train_domain": "t2", "epochs": 1, "epoch": 2, **changes}
    return script.RatLesNetFlags(out=out, **settings)


def test_smoke_run(tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--smoke", "--out", str(out), "--flips", "X"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "837,026 of 837,026 parameters train" in done.stdout
    assert "test, lesion: Dice" in done.stdout and "flair, lesion: Dice" in done.stdout
    for name in ("test", "flair"):
        summary = json.loads((out / "evaluation" / name / "summary.json").read_text())
        assert set(summary["classes"]) == {"lesion"}
        assert {p.name for p in (out / "slices" / name).iterdir()} == {
            "best.png", "median.png", "worst.png",
        }  # fmt: skip
    history = pd.read_csv(out / "history.csv")
    assert history["dice"].notna().sum() == 2 and "report.html" in done.stdout
    config = json.loads((out / "config.json").read_text())
    assert (config["keep"], config["patience"]) == ("best:dice", 20)
    assert config["preprocessing"]["axes"] == "ZXY" and config["task"]["unit"] == "mm"


def weights_of(network):
    return {w.path: np.array(w) for w in network.weights}


def test_a_partial_transfer_starts_from_the_weights_and_keeps_the_encoder(script, brains, tmp_path):
    start = km.models.RatLesNetV2((12, 16, 20, 1), 2)
    start.save_weights(tmp_path / "rats.weights.h5")
    chosen = flags(
        script, brains, tmp_path / "run", transfer="partial", init=tmp_path / "rats.weights.h5",
        train_size=3,
    )  # fmt: skip
    cases, _, task = script.read(chosen)
    run = script.train(chosen, cases, task)
    before, after = weights_of(start), weights_of(run.network)
    frozen = ("conv1", "block1", "block2", "block3", "bottleneck1")
    for path, value in before.items():
        stays = path.split("/")[0].split(".")[0] in frozen
        assert np.array_equal(after[path], value) == stays, path
    assert len(list((tmp_path / "run" / "prepared").glob("*.image"))) == 3


def test_dynunet_trains_on_patches_with_deep_supervision(script, brains, tmp_path):
    changes = {"model": "dynunet", "patch": (16, 16, 8), "loss": "mouse_dice", "augment": True}
    chosen = flags(script, brains, tmp_path, **changes)
    cases, _, task = script.read(chosen)
    levels = {"kernel_sizes": (3, 3, 3), "strides": (1, 2, 2), "filters": (4, 4, 4)}
    narrow = partial(km.models.DynUNet, **levels, deep_supervision=1)
    run = script.train(chosen, cases, task, narrow)
    assert run.preprocessing.axes == "XYZ" and run.preprocessing.size == (16, 20, 12)
    assert run.window.size == (16, 16, 8)
    row = pd.read_csv(tmp_path / "history.csv").iloc[-1]
    assert 0 < row["aux_1"] < row["segmentation"]  # of half the weight
    assert km.predict(run, cases["image"].iloc[0]).shape == (16, 20, 12, 2)


def volumes(folder, spacing, shapes):
    rows = []
    for i, shape in enumerate(shapes):
        image = folder / f"{i}.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(shape, "float32"), np.diag([*spacing, 1.0])), image)
        rows.append({"case": str(i), "image": image})
    return case_table(rows)


@pytest.mark.parametrize(
    ("spacing", "model", "axes", "size"),
    [
        ((0.1, 0.1, 0.5), "ratlesnet_v2", "ZXY", (8, 30, 36)),
        ((0.1, 0.5, 0.1), "ratlesnet_v2", "YXZ", (36, 30, 8)),
        ((0.2, 0.2, 0.2), "ratlesnet_v2", "ZXY", (8, 30, 36)),
        ((0.1, 0.1, 0.5), "dynunet", "XYZ", (30, 36, 8)),
        ((0.1, 0.1, 0.5), "unetr", "XYZ", (32, 48, 16)),
    ],
)
def test_slices_come_first_where_the_weights_want_it(script, tmp_path, spacing, model, axes, size):
    cases = volumes(tmp_path, spacing, [(30, 20, 8), (20, 36, 6)])
    chosen = script.RatLesNetFlags(model=model)
    preprocessing, of_axes = script.preprocessing_of(chosen, cases)
    assert (preprocessing.axes, preprocessing.size) == (axes, size)
    assert of_axes == pytest.approx([spacing["XYZ".index(a)] for a in axes])
    chosen.axes = "XYZ"  # as the mouse study's code
    assert script.preprocessing_of(chosen, cases)[0].axes == "XYZ"


def test_dynunet_follows_thick_slices(script):
    network = script.build("dynunet", (32, 32, 16, 1), 2, (0.1, 0.1, 0.5))
    kernels = {w.path: tuple(w.shape) for w in network.weights}
    first = [shape for path, shape in kernels.items() if path.startswith("input_block.conv1")]
    assert first == [(3, 3, 1, 1, 32)]
    level = network.get_layer("downsamples.0.conv1.conv")
    assert tuple(level.strides) == (2, 2, 1)
    same = script.build("dynunet", (32, 32, 16, 1), 2, (0.2, 0.2, 0.3))
    default = km.models.DynUNet((32, 32, 16, 1), 2, deep_supervision=2)
    assert [w.shape for w in same.weights] == [w.shape for w in default.weights]


def test_three_parts(script):
    cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(40)])
    parts = script.in_three(cases)["split"].value_counts().to_dict()
    assert parts == {"train": 28, "val": 4, "test": 8}
    halved = cases.assign(split=["train"] * 32 + ["test"] * 8)
    split = script.in_three(halved)
    assert split["split"].value_counts().to_dict() == {"train": 28, "val": 4, "test": 8}
    assert (split.loc[32:, "split"] == "test").all()
    with pytest.raises(ValueError, match="2 cases, of which none is of split test or val"):
        script.in_three(cases[:2].assign(split="train"))


MISTAKES = [
    ({"transfer": "partial"}, "a transfer needs weights to start from"),
    ({"init": Path("a.npz")}, "and weights a transfer, partial or full"),
    ({"transfer": "full", "init": PICKLED}, r"module\.pt.*torch\.nn\.modules\.activation\.ReLU"),
    ({"transfer": "full", "init": Path("lost.pt")}, r"lost\.pt: no such checkpoint"),
    ({"train_size": 8}, "8 cases are wanted, 7 with a mask are there"),
    ({"patch": (16, 16, 16)}, r"patch \(16, 16, 16\) is larger than .* \(12, 16, 20\)"),
    ({"train_domain": "t1"}, r"no case of domain \['t1'\]; there are \['flair', 't2'\]"),
    ({"root": Path("a")}, "Expected --dataset with --root, or --cases"),
    ({"cases": None, "dataset": "mouse_mcao"}, "Expected --dataset with --root, or --cases"),
    ({"cases": None, "dataset": "brain_mouse", "root": Path("no")}, "no: found no such folder"),
    ({"vote": (Path("lost"),)}, "lost: expected a run folder with config.json"),
    ({"flips": "W"}, "--flips W: expected letters out of XYZ"),
    ({"lesion": (7,)}, r"mask values \[1\]"),
    ({"model": "unetr", "patch": (12, 16, 12)}, "multiples of 16"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_mistakes(script, brains, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        script.main(flags(script, brains, tmp_path, **changes))
    assert not (tmp_path / "network.keras").exists()


def test_a_sham_animal_without_a_lesion_is_welcome(script, tmp_path):
    """The mouse study's folders, one mask empty."""
    for part, count in (("train", 3), ("val", 1), ("test", 1)):
        for kind in ("image", "mask"):
            (tmp_path / f"{part}_{kind}").mkdir()
        for i in range(count):
            rng = np.random.default_rng(i)
            image = rng.normal(size=(12, 12, 6)).astype("float32")
            mask = ((image > 1) & (i > 0 or part != "train")).astype("uint8")
            affine = np.diag([0.0997441, 0.0997441, 0.5, 1.0])
            for kind, array in (("image", image), ("mask", mask)):
                name = f"{part}{i}{'_mask' if kind == 'mask' else ''}.nii"
                nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{part}_{kind}" / name)
    chosen = script.RatLesNetFlags(dataset="mouse_mcao", root=tmp_path)
    cases, other, task = script.read(chosen)
    assert cases["split"].tolist() == ["train"] * 3 + ["val", "test"] and not len(other)
    assert lesion_volumes(cases, task)[0] == 0 < lesion_volumes(cases, task)[1:].min()
