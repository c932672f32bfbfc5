"""The network's grid, from the flags and the headers of the files."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from keras_meduda import models
from keras_meduda.data.cases import case_table
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.grids import picture_grid, volume_grid
from keras_meduda.experiment.networks import builder_of
from keras_meduda.recipes import adapt, aerunet_kd, combination, ratlesnet
from keras_meduda.task import Task


def volumes(folder, spacing, shapes):
    """The case table of blank volumes."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i, shape in enumerate(shapes):
        image = folder / f"{i}.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(shape, "float32"), np.diag([*spacing, 1.0])), image)
        rows.append({"case": str(i), "image": image})
    return case_table(rows)


@pytest.mark.parametrize(
    ("spacing", "network", "axes", "size"),
    [
        ((0.1, 0.1, 0.5), models.RatLesNetV2, "ZXY", (8, 30, 36)),
        ((0.1, 0.5, 0.1), models.RatLesNetV2, "YXZ", (36, 30, 8)),
        ((0.2, 0.2, 0.2), models.RatLesNetV2, "YXZ", (36, 30, 8)),
        ((0.1, 0.1, 0.5), models.DynUNet, "XYZ", (30, 36, 8)),
        ((0.1, 0.1, 0.5), models.UNETR, "XYZ", (32, 48, 16)),
    ],
)
def test_slices_come_first_where_the_weights_want_it(tmp_path, spacing, network, axes, size):
    cases, needs = volumes(tmp_path, spacing, [(30, 20, 8), (20, 36, 6)]), network.needs
    grid = volume_grid(cases, axes=needs.axes, multiple=needs.multiple)
    assert (grid.preprocessing.axes, grid.preprocessing.size) == (axes, size)
    assert grid.spacing == pytest.approx([spacing["XYZ".index(a)] for a in axes])
    grid = volume_grid(cases, axes="XYZ", fit="crop_foreground", multiple=needs.multiple)
    assert (grid.preprocessing.axes, grid.preprocessing.fit) == ("XYZ", "crop_foreground")


def test_all_headers_are_compared(tmp_path, capsys):
    cases = volumes(tmp_path / "usual", (0.1, 0.1, 0.5), [(8, 8, 4)] * 2)
    odd = volumes(tmp_path / "turned", (0.1, 0.5, 0.1), [(8, 4, 8)])
    with pytest.raises(ValueError) as caught:
        volume_grid(pd.concat([cases, odd]), axes="slices")
    first = tmp_path / "usual" / "0.nii.gz"
    assert str(caught.value) == (
        f"error: {tmp_path / 'turned' / '0.nii.gz'}: found slices across Y, expected slices across "
        f"Z as in {first}, or --axes"
    )
    capsys.readouterr()
    thick = volumes(tmp_path / "thick", (0.1, 0.1, 0.7), [(8, 8, 3)])
    cases = pd.concat([cases, thick])
    volume_grid(cases, axes="slices")
    assert capsys.readouterr().err == (
        f"warning: {tmp_path / 'thick' / '0.nii.gz'}: found voxels of 0.1 × 0.1 × 0.7 mm, expected "
        f"voxels of 0.1 × 0.1 × 0.5 mm as in {first}, or --spacing\n"
    )
    grid = volume_grid(cases, axes="slices", spacing=(0.5, 0.1, 0.1))
    assert grid.preprocessing.size == (4, 8, 8)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_the_grid_of_other_formats_is_that_of_nifti(tmp_path, ending):
    sitk = pytest.importorskip("SimpleITK")
    cases = volumes(tmp_path, (0.1, 0.1, 0.5), [(30, 20, 8), (20, 36, 6)])
    others = [image.replace(".nii.gz", f".{ending}") for image in cases["image"]]
    for image, other in zip(cases["image"], others, strict=True):
        sitk.WriteImage(sitk.ReadImage(image), other)
    grid, expected = (volume_grid(c, axes="slices") for c in (cases.assign(image=others), cases))
    assert grid.preprocessing.size == expected.preprocessing.size == (8, 30, 36)


@pytest.mark.parametrize(
    ("spacing", "of_files", "rotation"),
    [
        (None, [(1.0, 1.0, 1.2)], (10.0, 10.0, 10.0)),
        (None, [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0)], (0.0, 0.0, 10.0)),
        (None, [(0.5, 5.0, 0.5)], (0.0, 10.0, 0.0)),
        ((1.0, 1.0, 1.0), [(0.5, 0.5, 5.0)], (10.0, 10.0, 10.0)),
    ],
)
def test_thick_slices_are_turned_in_their_own_plane(tmp_path, spacing, of_files, rotation):
    cases = [volumes(tmp_path / str(i), mm, [(8, 8, 8)]) for i, mm in enumerate(of_files)]
    grid = volume_grid(pd.concat(cases), size=(8, 8, 8), spacing=spacing)
    assert grid.batches["geometry"].rotation == rotation


def test_volumes_are_seen_in_patches_and_predicted_by_the_window(tmp_path):
    cases = volumes(tmp_path, (1, 1, 1), [(20, 20, 20)])
    data = Data(Task(("tumour",)), {"source": cases}, {"test": cases[:0]}, "blank")
    flags = aerunet_kd.Flags(size=(24, 24, 24), patch=(16, 16, 8), cases=tmp_path)
    grid = flags.grid(data, models.AERUNet.needs)
    assert grid.window.size == grid.batches["patch"].size == (16, 16, 8) and grid.volumes
    recipe = aerunet_kd.recipe(flags, data)
    assert recipe.shape == (16, 16, 8, 1), "what the network is built for"
    assert recipe.stages["adapted"].target_styles == recipe.stages["adapted"].source_styles == 2
    for changes, message in (
        ({"patch": (32, 16, 16)}, r"patch \(32, 16, 16\): .* at most the grid's \(24, 24, 24\)"),
        ({"patch": (16, 16)}, r"patch \(16, 16\): expected 3 sides"),
        ({"size": (24,)}, "--size 24: volumes have three sides"),
    ):
        settings = {"size": (24, 24, 24), "cases": tmp_path, **changes}
        with pytest.raises(ValueError, match=message):
            aerunet_kd.recipe(aerunet_kd.Flags(**settings), data)


def test_a_patch_of_a_picture_fits_into_it():
    grid = picture_grid((96, 128), patch=64)
    assert grid.window.size == grid.batches["patch"].size == (64, 64)
    with pytest.raises(ValueError, match=r"--patch \(64, 64\): expected 2 sides, at most"):
        picture_grid(48, patch=64)


def test_dynunet_follows_thick_slices(tmp_path):
    cases = volumes(tmp_path, (0.1, 0.1, 0.5), [(32, 32, 16)])
    data = Data(Task(("lesion",)), {"source": cases}, {"test": cases[:0]}, "blank")
    flags = ratlesnet.Flags(model="dynunet", cases=tmp_path)
    network = ratlesnet.recipe(flags, data).build(data.task)
    kernels = {w.path: tuple(w.shape) for w in network.weights}
    first = [shape for path, shape in kernels.items() if path.startswith("input_block.conv1")]
    assert first == [(3, 3, 1, 1, 32)]
    assert tuple(network.get_layer("downsamples.0.conv1.conv").strides) == (2, 2, 1)


@pytest.mark.parametrize(
    ("asked", "width"),
    [
        ({}, 16),
        ({"filters": (4, 8)}, 4),
        ({"network": "UNet", "filters": (4, 8)}, 4),
    ],
)
def test_the_recommended_adaptation_has_the_width_that_was_asked_for(tmp_path, asked, width):
    cases = volumes(tmp_path, (1, 1, 1), [(20, 20, 20)])
    data = Data(Task(("tumour",)), {"source": cases}, {"test": cases[:0]}, "blank")
    flags = adapt.Flags(size=(16, 16, 16), patch=(16, 16, 16), cases=tmp_path, **asked)
    network = adapt.recipe(flags, data).build(data.task)
    first = next(layer for layer in network._flatten_layers() if hasattr(layer, "kernel"))
    assert first.kernel.shape[-1] == width


def test_a_network_is_found_by_its_name():
    with pytest.raises(ValueError, match="AERUnet: no such network; did you mean AERUNet"):
        builder_of("AERUnet", 2, False)
    with pytest.raises(ValueError, match="DeepLabV3Plus takes no volumes; AERUNet, .* do"):
        builder_of("DeepLabV3Plus", 3, False)


@pytest.mark.parametrize(
    ("name", "argument", "takers"),
    [
        ("DynUNet", {"backbone": "mobilenetv2"}, "AERUNet, DeepLabV3Plus, UNet, UNetPlusPlus"),
        ("UNetS5D16", {"weights": "imagenet"}, "AERUNet, DeepLabV3Plus, UNet, UNetPlusPlus"),
        ("DeepLabV3Plus", {"filters": (4, 8)}, "AERUNet, DynUNet, UNet, UNetPlusPlus"),
    ],
)
def test_a_flag_that_a_network_does_not_take_is_named(name, argument, takers):
    assert builder_of(name, 2, False, **dict.fromkeys(argument)) is not None
    expected = f"{name} takes no --{next(iter(argument))}; {takers} do."
    with pytest.raises(ValueError, match=expected):
        builder_of(name, 2, False, **argument)
    with pytest.raises(ValueError, match="RatLesNetV2 takes no --backbone; AERUNet, UNet"):
        builder_of("RatLesNetV2", 3, True, backbone="mobilenetv2")


@pytest.mark.parametrize("recipe", [adapt, combination])
def test_flags_are_in_the_order_of_anatomy_for_every_network(tmp_path, recipe):
    """RatLesNetV2 wants slices first; --size still reads left to right, back to front, up."""
    cases = volumes(tmp_path, (0.1, 0.2, 0.5), [(40, 24, 16)])
    data = Data(Task(("tumour",)), {"source": cases}, {"test": cases[:0]}, "blank")
    asked = {"size": (40, 24, 16), "patch": (20, 12, 8), "spacing": (0.1, 0.2, 0.5)}
    if recipe is combination:
        asked["method"] = "kl_distillation"
    made = recipe.recipe(recipe.Flags(network="RatLesNetV2", cases=tmp_path, **asked), data)
    p = made.preprocessing
    assert (p.axes, p.size, p.spacing) == ("ZXY", (16, 40, 24), (0.5, 0.1, 0.2))
    assert made.window.size == (8, 20, 12)


@pytest.mark.parametrize("recipe", [adapt, combination])
def test_dynunet_follows_thick_slices_in_every_recipe(tmp_path, recipe):
    cases = volumes(tmp_path, (0.1, 0.1, 0.5), [(32, 32, 16)])
    data = Data(Task(("lesion",)), {"source": cases}, {"test": cases[:0]}, "blank")
    asked = {"method": "kl_distillation"} if recipe is combination else {}
    flags = recipe.Flags(network="DynUNet", cases=tmp_path, smoke=True, **asked)
    network = recipe.recipe(flags, data).build(data.task)
    kernels = {w.path: tuple(w.shape) for w in network.weights}
    assert next(k for path, k in kernels.items() if path.startswith("input_block"))[:3] == (3, 3, 1)
