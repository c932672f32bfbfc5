"""One dialect of flags: every command names cases and classes alike, and older words still work."""

import nibabel as nib
import numpy as np
import pytest
import tyro

from keras_meduda.commands import boxes, check, predict
from keras_meduda.data.io import DataError
from keras_meduda.data.phantoms import write_brain, write_brain_slices, write_oct
from keras_meduda.experiment.command_line import recipe_named
from keras_meduda.experiment.one_domain import CaseFlags, one_class


def flags(name, *words):
    return tyro.cli(recipe_named(name).Flags, args=[str(word) for word in words])


def test_older_words_mean_what_the_new_ones_say(tmp_path):
    table = write_oct(tmp_path / "oct", subjects=3, scans=2, size=64)
    old, new = (
        recipe_named("oct").data(flags("oct", "--cases", table, *words)).task
        for words in (("--fluid", 1), ("--classes", "fluid=1"))
    )
    assert old == new
    old, new = (flags("ratlesnet", word, "t2") for word in ("--train-domain", "--source-domain"))
    assert old == new and new.train_domain == "t2"
    old, new = (
        tyro.cli(predict.Flags, args=["--run", "r", word, "cases.csv"])
        for word in ("--images", "--cases")
    )
    assert old == new


def test_boxes_of_one_class_by_either_form(meduda, tmp_path):
    """Of several classes, or of both forms, none is taken in silence."""
    table = write_brain_slices(tmp_path, cases=8, size=64)
    written = []
    for i, words in enumerate([("--values", 1, 255), ("--classes", "tumour=1,255"), ()]):
        code, _, error = meduda("boxes", "--cases", table, *words, "--out", tmp_path / str(i))
        assert code == 0, error
        written.append((tmp_path / str(i) / "boxes.csv").read_text())
    assert written[0] == written[1] == written[2] and written[0].count("\n") > 2
    code, _, error = meduda("boxes", "--cases", table, "--classes", "a=1", "b=255", "--out", "o")
    assert code == 2 and "The classes a, b; expected one" in error
    with pytest.raises(ValueError, match="--values is the older form of --classes"):
        one_class(boxes.Flags(cases=table, classes=("a=1",), values=(1,)), None, None)


@pytest.mark.parametrize(
    "settings", [{}, {"root": "a"}, {"dataset": "refuge"}, {"cases": "a", "dataset": "refuge"}]
)
def test_no_data_half_of_them_or_both_are_refused(settings):
    with pytest.raises(ValueError, match="expected --cases, or --dataset with --root"):
        CaseFlags(**settings).read()


def test_nan_is_background_where_asked_and_else_the_flag_is_named(tmp_path):
    table = write_brain(tmp_path, 10, (16, 20, 12))
    for path in tmp_path.rglob("*.nii.gz"):
        if "mask" not in str(path):
            image = nib.load(path)
            array = image.get_fdata().astype("float32")
            array[:2] = np.nan
            nib.save(nib.Nifti1Image(array, image.affine), path)
    two = ["--cases", table, "--source-domain", "t2", "--target-domain", "flair"]
    both = ["--method", "supervised", "--network", "UNet", "--classes", "tumour=1", *two]
    for name, words in {"combination": both, "ratlesnet": two}.items():
        module = recipe_named(name)
        with pytest.raises(DataError, match="NaN .* finite numbers, or --nan-background"):
            module.data(flags(name, *words))
        asked = flags(name, *words, "--nan-background")
        assert module.recipe(asked, module.data(asked)).preprocessing.nan_background
    told = {"cases": table, "classes": ("tumour=1",)}
    with pytest.raises(DataError, match="--nan-background"):
        check.main(check.Flags(**told))
    check.main(check.Flags(**told, nan_background=True))
