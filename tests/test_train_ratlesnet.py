"""`scripts/train_ratlesnet.py`: its networks, a transfer, and a user's mistakes."""

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
import train_ratlesnet

import keras_meduda as km
from keras_meduda import cli
from keras_meduda.data.cases import case_table, write_cases
from keras_meduda.data.phantoms import write_brain
from keras_meduda.data.subset import lesion_volumes

PICKLED = Path(__file__).parent / "models" / "torch_files" / "module.pt"


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """The case table of twelve tiny brains in each of two contrasts."""
    return write_brain(tmp_path_factory.mktemp("brains"), 12, (16, 20, 12))


def flags(brains, out, **changes):
    settings = {"cases": brains, "train_domain": "t2", "epochs": 1, "epoch": 2, **changes}
    return train_ratlesnet.RatLesNetFlags(out=out, **settings)


def test_smoke_run(tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, train_ratlesnet.__file__, "--smoke", "--out", str(out), "--flips", "X"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "837,026 of 837,026 parameters train" in done.stdout
    assert "test, lesion: Dice" in done.stdout and "flair, lesion: Dice" in done.stdout
    assert "postprocessing: islands and holes below 20 voxels are removed; flips: X" in done.stdout
    assert "islands and holes below 20 voxels are removed" in (out / "report.html").read_text()
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
    assert config["preprocessing"]["axes"] == "YXZ" and config["task"]["unit"] == "mm"


def test_a_first_try_on_own_data_is_as_short(brains, tmp_path):
    chosen = flags(brains, tmp_path, epochs=None, epoch=None, smoke=True)
    train_ratlesnet.read(chosen)
    assert (chosen.epochs, chosen.epoch) == (2, 2)


def test_phantoms_of_a_first_try_are_not_those_of_the_whole_run(tmp_path):
    for changes, shape in (({"smoke": True}, (16, 20, 12)), ({}, (40, 44, 32))):
        changes["train_domain"] = "flair"
        own, _, _ = train_ratlesnet.read(train_ratlesnet.RatLesNetFlags(out=tmp_path, **changes))
        assert set(own["domain"]) == {"flair"}
        assert nib.load(own["image"].iloc[0]).shape == shape


def test_half_precision_on_a_processor_that_lacks_it(brains, tmp_path, monkeypatch, capsys):
    typed = ["--cases", brains, "--train-domain", "t2", "--smoke", "--precision", "mixed_float16"]
    monkeypatch.setattr(sys, "argv", ["train_ratlesnet", *map(str, typed), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.run_script(train_ratlesnet.main, train_ratlesnet.RatLesNetFlags)
    assert end.value.code == 2
    assert "lacks an operation in half precision; expected --precision" in capsys.readouterr().err


def test_the_other_domain_is_on_the_grid_as_well(brains, tmp_path, monkeypatch):
    def refuse(flags, cases):
        raise ValueError(f"headers of {sorted(set(cases['domain']))}")

    monkeypatch.setattr(train_ratlesnet, "preprocessing_of", refuse)
    with pytest.raises(ValueError, match=r"headers of \['flair', 't2'\]"):
        train_ratlesnet.main(flags(brains, tmp_path, test_domain="flair"))


def weights_of(network):
    return {w.path: np.array(w) for w in network.weights}


def test_a_partial_transfer_starts_from_the_weights_and_keeps_the_encoder(brains, tmp_path):
    start = km.models.RatLesNetV2((20, 16, 12, 1), 2)
    start.save_weights(tmp_path / "rats.weights.h5")
    chosen = flags(
        brains, tmp_path / "run", transfer="partial", init=tmp_path / "rats.weights.h5",
        train_size=3,
    )  # fmt: skip
    cases, _, task = train_ratlesnet.read(chosen)
    run = train_ratlesnet.train(chosen, cases, task)
    before, after = weights_of(start), weights_of(run.network)
    frozen = ("conv1", "block1", "block2", "block3", "bottleneck1")
    for path, value in before.items():
        stays = path.split("/")[0].split(".")[0] in frozen
        assert np.array_equal(after[path], value) == stays, path
    assert len(list((tmp_path / "run" / "prepared").glob("*.image"))) == 3


def test_dynunet_trains_on_patches_with_deep_supervision(brains, tmp_path):
    changes = {"model": "dynunet", "patch": (16, 16, 8), "loss": "mouse_dice", "augment": True,
               "augment_intensity": True}  # fmt: skip
    chosen = flags(brains, tmp_path, **changes)
    cases, _, task = train_ratlesnet.read(chosen)
    levels = {"kernel_sizes": (3, 3, 3), "strides": (1, 2, 2), "filters": (4, 4, 4)}
    narrow = partial(km.models.DynUNet, **levels, deep_supervision=1)
    run = train_ratlesnet.train(chosen, cases, task, narrow)
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
        ((0.2, 0.2, 0.2), "ratlesnet_v2", "YXZ", (36, 30, 8)),
        ((0.1, 0.1, 0.5), "dynunet", "XYZ", (30, 36, 8)),
        ((0.1, 0.1, 0.5), "unetr", "XYZ", (32, 48, 16)),
    ],
)
def test_slices_come_first_where_the_weights_want_it(tmp_path, spacing, model, axes, size):
    cases = volumes(tmp_path, spacing, [(30, 20, 8), (20, 36, 6)])
    chosen = train_ratlesnet.RatLesNetFlags(model=model)
    preprocessing, of_axes = train_ratlesnet.preprocessing_of(chosen, cases)
    assert (preprocessing.axes, preprocessing.size) == (axes, size)
    assert of_axes == pytest.approx([spacing["XYZ".index(a)] for a in axes])
    chosen.axes, chosen.fit = "XYZ", "crop_foreground"  # the axes of the mouse study's code
    preprocessing, _ = train_ratlesnet.preprocessing_of(chosen, cases)
    assert (preprocessing.axes, preprocessing.fit) == ("XYZ", "crop_foreground")


def test_all_headers_are_compared(tmp_path, capsys):
    turned, thick = tmp_path / "turned", tmp_path / "thick"
    for folder in (turned, thick):
        folder.mkdir()
    cases = volumes(tmp_path, (0.1, 0.1, 0.5), [(8, 8, 4)] * 2)
    odd = volumes(turned, (0.1, 0.5, 0.1), [(8, 4, 8)])
    chosen = train_ratlesnet.RatLesNetFlags()
    with pytest.raises(ValueError) as caught:
        train_ratlesnet.preprocessing_of(chosen, pd.concat([cases, odd]))
    assert str(caught.value) == (
        f"error: {turned / '0.nii.gz'}: found slices across Y, expected slices across Z as in "
        f"{tmp_path / '0.nii.gz'}, or --axes"
    )
    cases = pd.concat([cases, volumes(thick, (0.1, 0.1, 0.7), [(8, 8, 3)])])
    train_ratlesnet.preprocessing_of(chosen, cases)
    assert capsys.readouterr().err == (
        f"warning: {thick / '0.nii.gz'}: found voxels of 0.1 × 0.1 × 0.7 mm, expected voxels of "
        f"0.1 × 0.1 × 0.5 mm as in {tmp_path / '0.nii.gz'}, or --spacing\n"
    )
    chosen.spacing = (0.5, 0.1, 0.1)
    assert train_ratlesnet.preprocessing_of(chosen, cases)[0].size == (4, 8, 8)
    assert capsys.readouterr().err == ""


def test_dynunet_follows_thick_slices():
    network = train_ratlesnet.build("dynunet", (32, 32, 16, 1), 2, (0.1, 0.1, 0.5))
    kernels = {w.path: tuple(w.shape) for w in network.weights}
    first = [shape for path, shape in kernels.items() if path.startswith("input_block.conv1")]
    assert first == [(3, 3, 1, 1, 32)]
    level = network.get_layer("downsamples.0.conv1.conv")
    assert tuple(level.strides) == (2, 2, 1)
    same = train_ratlesnet.build("dynunet", (32, 32, 16, 1), 2, (0.2, 0.2, 0.3))
    default = km.models.DynUNet((32, 32, 16, 1), 2, deep_supervision=2)
    assert [w.shape for w in same.weights] == [w.shape for w in default.weights]


def test_no_case_of_the_tested_domain_and_no_group_of_it_trains(brains, tmp_path, capsys):
    """Twelve animals; four of them seen in both contrasts, as patients of BraTS are."""
    cases = km.read_cases(brains)
    same = cases["case"].str.endswith(("_001", "_002", "_008", "_009"))
    names = cases["case"].str.replace("flair", "t2").where(same, cases["case"])
    table = tmp_path / "cases.csv"
    write_cases(cases.assign(group=names, split=""), table)
    for train_domain in (None, "t2"):
        chosen = flags(table, tmp_path, train_domain=train_domain, test_domain="flair")
        own, other, _ = train_ratlesnet.read(chosen)
        assert set(own["domain"]) == {"t2"} and set(other["domain"]) == {"flair"}
        learnt = own.loc[own["split"] != "test", "group"]
        assert not set(learnt) & set(other["group"])
        lost = 12 - len(other)
        assert lost == len(set(learnt) & set(names[same])) > 0
        said = f"{lost} of 12 cases of flair are not tested: their groups train"
        assert said in capsys.readouterr().out


def test_within_what_trains_no_group_is_tested_in_another_domain(brains, tmp_path):
    cases = km.read_cases(brains)
    pairs = cases["case"].str[-3:]
    table = tmp_path / "cases.csv"
    write_cases(cases.assign(group=pairs, split=""), table)
    own, _, _ = train_ratlesnet.read(flags(table, tmp_path, train_domain=None))
    assert own.groupby("group")["split"].nunique().max() == 1 and len(own) == 24
    seen = cases["domain"].map({"t2": "train", "flair": "test"})
    seen = seen.mask((pairs > "007"), "val").mask(pairs == "011", "test")
    write_cases(cases.assign(group=pairs, split=seen), table)
    own, _, _ = train_ratlesnet.read(flags(table, tmp_path, train_domain=None))
    assert sorted(own.loc[own["split"] == "test", "case"]) == ["flair_011", "t2_011"]


def test_cases_without_a_mask_are_left_out(brains, tmp_path, capsys):
    cases = km.read_cases(brains)
    cases.loc[[0, 1], "mask"] = ""
    table = tmp_path / "cases.csv"
    write_cases(cases.assign(split=""), table)
    own, _, _ = train_ratlesnet.read(flags(table, tmp_path))
    assert len(own) == 10 and (own["mask"] != "").all()
    assert "2 of 24 cases have no mask and are left out" in capsys.readouterr().out


def test_two_empty_masks_score_0_as_in_the_mouse_study():
    frame = pd.DataFrame({
        "class": "lesion", "dice": [1.0, 0.5, 0.0], "hd95": [0.0, 2.0, 9.0],
        "prediction_empty": [True, False, True], "reference_empty": [True, False, False],
    })  # fmt: skip
    (line,) = train_ratlesnet.as_the_mouse_study(frame)
    assert line.startswith("lesion, as the mouse study counts")
    assert line.endswith("Dice 0.167, HD95 2.000 mm")
    assert not list(train_ratlesnet.as_the_mouse_study(frame[1:2]))


MISTAKES = [
    ({"transfer": "partial"}, "a transfer needs weights to start from"),
    ({"init": Path("a.npz")}, "and weights a transfer, partial or full"),
    ({"transfer": "full", "init": PICKLED}, r"module\.pt.*torch\.nn\.modules\.activation\.ReLU"),
    ({"transfer": "full", "init": Path("lost.pt")}, r"lost\.pt: no such checkpoint"),
    ({"train_size": 8}, "8 cases are wanted, 7 with a mask are there"),
    ({"patch": (16, 16, 16)}, r"patch \(16, 16, 16\) is larger than .* \(20, 16, 12\)"),
    ({"test_domain": "t2"}, "--train-domain and --test-domain are both 't2'"),
    ({"train_domain": "t1"}, r"no case of domain \['t1'\]; there are \['flair', 't2'\]"),
    ({"root": Path("a")}, "Expected --dataset with --root, or --cases"),
    ({"cases": None, "dataset": "mouse_mcao"}, "Expected --dataset with --root, or --cases"),
    ({"cases": None, "dataset": "brain_mouse", "root": Path("no")}, "no: found no such folder"),
    ({"vote": (Path("lost"),)}, "lost: expected a run folder with config.json"),
    ({"flips": "W"}, "--flips W: expected letters out of XYZ"),
    ({"moving_statistics": True}, "--moving-statistics is of --transfer partial"),
    ({"lesion": (7,)}, r"mask values \[1\]"),
    ({"model": "unetr", "patch": (12, 16, 12)}, "multiples of 16"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_mistakes(brains, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        train_ratlesnet.main(flags(brains, tmp_path, **changes))
    assert not (tmp_path / "prepared").exists()


def test_pictures_are_no_volumes(tmp_path):
    from keras_meduda.data.phantoms import write_oct

    table = write_oct(tmp_path, 2, 1, size=16)
    with pytest.raises(ValueError, match=r"\.png: found no volume, expected NIfTI"):
        train_ratlesnet.main(flags(table, tmp_path / "run", train_domain=None))


def test_votes_of_other_data_are_refused_before_the_training(brains, tmp_path):
    first = flags(brains, tmp_path / "a", epoch=1)
    own, _, task = train_ratlesnet.read(first)
    train_ratlesnet.train(first, own, task)
    second = flags(brains, tmp_path / "b", vote=(tmp_path / "a",), axes="ZXY")
    with pytest.raises(ValueError, match="has the preprocessing .* differ in their networks"):
        train_ratlesnet.main(second)
    assert not (tmp_path / "b").exists()


def test_a_sham_animal_without_a_lesion_is_welcome(tmp_path):
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
    chosen = train_ratlesnet.RatLesNetFlags(dataset="mouse_mcao", root=tmp_path)
    cases, other, task = train_ratlesnet.read(chosen)
    assert cases["split"].tolist() == ["train"] * 3 + ["val", "test"] and not len(other)
    assert lesion_volumes(cases, task)[0] == 0 < lesion_volumes(cases, task)[1:].min()
