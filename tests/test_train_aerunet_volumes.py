"""`scripts/train_aerunet_kd.py` on volumes: one data set, two contrasts, patches."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import train_aerunet_kd

import keras_meduda as km
from keras_meduda import study
from keras_meduda.data.phantoms import write_brain


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Five drawn brains in BraTS' layout; each contrast its own drawing."""
    drawn, root = (tmp_path_factory.mktemp(name) for name in ("drawn", "brats"))
    cases = km.read_cases(write_brain(drawn, 5, (18, 20, 16)))
    for domain, rows in cases.groupby("domain"):
        for i, row in enumerate(rows.itertuples()):
            shutil.copy(row.image, root / f"b{i}_{domain}.nii.gz")
            shutil.copy(row.mask, root / f"b{i}_seg.nii.gz")
    return root


def flags(brats, out, **changes):
    settings = {
        "source_dataset": "brats", "source_root": brats, "source_domain": "t2",
        "target_domain": "flair", "steps": 4, "filters": (4, 8), "size": (24, 24, 24),
        "patch": (16, 16, 16), **changes,
    }  # fmt: skip
    return train_aerunet_kd.AERUNetFlags(out=out, **settings)


def test_two_contrasts_of_one_data_set(brats, tmp_path, capsys):
    train_aerunet_kd.main(flags(brats, tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["task"]["classes"] == ["tumour"] and config["task"]["unit"] == "mm"
    assert config["preprocessing"]["normalise"] == "zscore_foreground"
    assert config["window"]["size"] == [16, 16, 16] and config["batch_size"] == 2
    frame = pd.read_csv(tmp_path / "evaluation" / "adapted" / "cases.csv")
    assert frame["domain"].tolist() == ["flair"] and "HD95" in capsys.readouterr().out
    history = pd.read_csv(tmp_path / "history.csv")
    assert (history["kl"] > 0).all()
    # The source and the target each have two twins in the other's histogram.
    assert len(list((tmp_path / "prepared").glob("*-*.image"))) == 4 * 2 + 4 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (32, 16, 16)}, r"patch \(32, 16, 16\) is larger than .* \(24, 24, 24\)"),
        ({"size": (24,)}, "--size 24: volumes have three sides"),
        ({"target_domain": "t1"}, r"no case of domain 't1'; there are \['flair', 't2'\]"),
        ({"target_domain": None}, "--source-domain and --target-domain are two of one data set"),
        ({"target_domain": "t2"}, r"5 image files are in the source and in the target, such as"),
        (
            {"source_dataset": None, "source_root": None, "volumes": True},
            "--source-domain and --target-domain need data",
        ),
    ],
)
def test_mistakes(brats, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_aerunet_kd.main(flags(brats, tmp_path, **changes))
    assert not list(tmp_path.rglob("prepared"))


def test_settings_of_volumes(brats, tmp_path):
    chosen = flags(brats, tmp_path, fit="crop_foreground")
    preprocessing, shape, _ = train_aerunet_kd.volumes(chosen, [(1.0, 1.0, 1.0)])
    assert chosen.augment_source and chosen.mode == "style" and shape == (16, 16, 16, 1)
    assert preprocessing.fit == "crop_foreground"


def test_drawn_brains_where_no_data_are_named(tmp_path):
    chosen = train_aerunet_kd.AERUNetFlags(out=tmp_path, volumes=True, smoke=True)
    train_aerunet_kd.draw_brains(chosen)
    cases = km.read_cases(chosen.cases)
    assert sorted(set(cases["domain"])) == ["flair", "t2"] and len(cases) == 6


@pytest.mark.parametrize("change", [{"seed": 1}, {"smoke": False}, {"volumes": False}])
def test_other_flags_draw_other_phantoms(tmp_path, change):
    drawn = []
    for changes in ({}, {}, change):
        settings = {"volumes": True, "smoke": True, **changes}
        chosen = train_aerunet_kd.AERUNetFlags(out=tmp_path, **settings)
        if chosen.volumes:
            train_aerunet_kd.draw_brains(chosen)
        source, *_ = study._read_domains(chosen)
        drawn.append(Path(source["image"].iloc[0]).parents[1])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("spacing", "spacings", "rotation"),
    [
        (None, [(1.0, 1.0, 1.2)], (10.0, 10.0, 10.0)),
        (None, [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0)], (0.0, 0.0, 10.0)),
        (None, [(0.5, 5.0, 0.5)], (0.0, 10.0, 0.0)),
        ((1.0, 1.0, 1.0), [(0.5, 0.5, 5.0)], (10.0, 10.0, 10.0)),
    ],
)
def test_thick_slices_are_turned_in_their_own_plane(brats, tmp_path, spacing, spacings, rotation):
    chosen = flags(brats, tmp_path, spacing=spacing)
    _, _, settings = train_aerunet_kd.volumes(chosen, spacings)
    assert settings["batches"]["geometry"].rotation == rotation


@pytest.mark.parametrize(
    "change",
    [{"patch": (8, 8, 8)}, {"spacing": (1.0, 1.0, 1.0)}, {"fit": "crop_foreground"}],
)
def test_flags_of_volumes_are_refused_for_photographs(tmp_path, change):
    chosen = train_aerunet_kd.AERUNetFlags(out=tmp_path, **change)
    with pytest.raises(ValueError, match="--patch, --spacing and --fit are for volumes"):
        train_aerunet_kd.pictures(chosen)
