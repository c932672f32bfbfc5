"""Labelled volumes of one or two domains: which train, which choose, which are tested."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import write_cases
from keras_meduda.data.phantoms import write_brain, write_oct
from keras_meduda.experiment import lesions
from keras_meduda.recipes import ratlesnet

PICKLED = Path(__file__).parents[1] / "models" / "torch_files" / "module.pt"


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """The case table of twelve tiny brains in each of two contrasts."""
    return write_brain(tmp_path_factory.mktemp("brains"), 12, (16, 20, 12))


def flags(brains, out, **changes):
    settings = {"cases": brains, "train_domain": "t2", "epochs": 1, "epoch": 2, **changes}
    return ratlesnet.Flags(out=out, **settings)


def test_phantoms_of_a_first_try_are_not_those_of_the_whole_run(tmp_path):
    for changes, shape in (({"smoke": True}, (16, 20, 12)), ({}, (40, 44, 32))):
        changes["train_domain"] = "flair"
        own, _, _ = lesions.read(ratlesnet.Flags(out=tmp_path, **changes))
        assert set(own["domain"]) == {"flair"}
        assert nib.load(own["image"].iloc[0]).shape == shape


def test_no_case_of_the_tested_domain_and_no_group_of_it_trains(brains, tmp_path, capsys):
    """Twelve animals; four of them seen in both contrasts, as patients of BraTS are."""
    cases = km.read_cases(brains)
    same = cases["case"].str.endswith(("_001", "_002", "_008", "_009"))
    names = cases["case"].str.replace("flair", "t2").where(same, cases["case"])
    table = tmp_path / "cases.csv"
    write_cases(cases.assign(group=names, split=""), table)
    for train_domain in (None, "t2"):
        chosen = flags(table, tmp_path, train_domain=train_domain, test_domain="flair")
        own, other, _ = lesions.read(chosen)
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
    own, _, _ = lesions.read(flags(table, tmp_path, train_domain=None))
    assert own.groupby("group")["split"].nunique().max() == 1 and len(own) == 24
    seen = cases["domain"].map({"t2": "train", "flair": "test"})
    seen = seen.mask((pairs > "007"), "val").mask(pairs == "011", "test")
    write_cases(cases.assign(group=pairs, split=seen), table)
    own, _, _ = lesions.read(flags(table, tmp_path, train_domain=None))
    assert sorted(own.loc[own["split"] == "test", "case"]) == ["flair_011", "t2_011"]


def test_cases_without_a_mask_are_left_out(brains, tmp_path, capsys):
    cases = km.read_cases(brains)
    cases.loc[[0, 1], "mask"] = ""
    table = tmp_path / "cases.csv"
    write_cases(cases.assign(split=""), table)
    own, _, _ = lesions.read(flags(table, tmp_path))
    assert len(own) == 10 and (own["mask"] != "").all()
    assert "2 of 24 cases have no mask and are left out" in capsys.readouterr().out


def test_the_other_domain_is_on_the_grid_as_well(brains, tmp_path):
    cases = km.read_cases(brains)
    wide = cases.index[cases["domain"] == "flair"][-1]
    image = nib.load(cases.loc[wide, "image"])
    for kind in ("image", "mask"):
        narrow = np.asarray(nib.load(cases.loc[wide, kind]).dataobj)
        volume = np.pad(narrow, ((0, 9), (0, 0), (0, 0)))
        cases.loc[wide, kind] = str(tmp_path / f"{kind}.nii.gz")
        nib.save(nib.Nifti1Image(volume, image.affine), cases.loc[wide, kind])
    write_cases(cases, tmp_path / "cases.csv")
    chosen = flags(tmp_path / "cases.csv", tmp_path, test_domain="flair")
    recipe = ratlesnet.recipe(chosen, ratlesnet.data(chosen))
    assert recipe.preprocessing.size == (20, 16 + 9, 12)


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
    cases, other, _ = lesions.read(ratlesnet.Flags(dataset="mouse_mcao", root=tmp_path))
    assert cases["split"].tolist() == ["train"] * 3 + ["val", "test"] and not len(other)


MISTAKES = [
    ({"transfer": "partial"}, "a transfer needs weights to start from"),
    ({"init": Path("a.npz")}, "and weights a transfer, partial or full"),
    ({"transfer": "full", "init": PICKLED}, r"module\.pt.*torch\.nn\.modules\.activation\.ReLU"),
    ({"transfer": "full", "init": Path("lost.pt")}, r"lost\.pt: no such checkpoint"),
    ({"train_size": 8}, "8 cases are wanted, 7 with a mask are there"),
    ({"patch": (16, 16, 16)}, r"patch \(16, 16, 16\): .* the grid's \(20, 16, 12\)"),
    ({"test_domain": "t2"}, "--source-domain and --target-domain are both 't2'"),
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
def test_a_mistake_is_named_before_anything_is_written(brains, tmp_path, changes, message):
    from keras_meduda.experiment.runner import run

    with pytest.raises((ValueError, OSError), match=message):
        chosen = flags(brains, tmp_path, **changes)
        data = ratlesnet.data(chosen)
        run(ratlesnet.recipe(chosen, data), data, chosen)
    assert not list(tmp_path.rglob("*.image")) and not (tmp_path / "config.json").exists()


def test_pictures_are_no_volumes(tmp_path):
    table = write_oct(tmp_path, 2, 1, size=16)
    with pytest.raises(ValueError, match=r"\.png: found no volume, expected NIfTI"):
        ratlesnet.data(flags(table, tmp_path / "run", train_domain=None))
