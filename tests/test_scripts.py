"""The scripts as a user runs them: in a process of their own, with a user's mistakes."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_meduda as km
from keras_meduda import adaptation, cli, study
from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import DataError
from keras_meduda.methods import KLDistillation

SCRIPTS = Path(__file__).parents[1] / "scripts"


def call(name, *flags, **env):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, flags)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160", **env},
    )


def call_here(name, *typed, monkeypatch, capsys):
    """The script in this process, to save the time of loading; (exit code, stderr)."""
    script = import_module(name)
    flags_type = next(
        v for k, v in vars(script).items() if k.endswith("Flags") and v.__module__ == name
    )
    monkeypatch.setattr(sys, "argv", [name, *map(str, typed)])
    with pytest.raises(SystemExit) as end:
        cli.run_script(script.main, flags_type)
    return end.value.code, " ".join(capsys.readouterr().err.split())


def flags(tmp_path, **settings):
    return cli.Flags(out=tmp_path / "run", smoke=True, batch_size=2, size=32, **settings)


def adapt(flags, filters=(4, 8)):
    """The same path as a training script, in this process and with a tiny network."""
    cases = study.read_study(flags)
    preprocessing = km.Preprocessing(size=(32, 32), intensity=("clahe",))

    def network():
        return km.models.AERUNet((32, 32, 3), cases.task.channels, filters)

    adaptation.announce(cases, preprocessing, network(), flags, styles=1)
    return adaptation.run_study(
        cases, flags, preprocessing, network, lambda n: KLDistillation(n, True, ema=0.9), styles=1
    )


@pytest.mark.parametrize("script", sorted(p.stem for p in SCRIPTS.glob("*.py")))
def test_help(script):
    done = call(script, "--help", COLUMNS="200")
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
    shown = [line.strip() for line in done.stdout.splitlines()]
    docstring = ast.get_docstring(ast.parse((SCRIPTS / f"{script}.py").read_text()))
    for command in docstring.splitlines():
        if command.startswith("python "):
            assert command in shown


def test_smoke_run_ends_in_one_table(tmp_path):
    done = call("train_aerunet_kd", "--smoke", "--oracle", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    for text in ("source only", "adapted", "oracle", "gap closed", "on disk", "groups"):
        assert text in done.stdout, done.stdout
    out = tmp_path / "run"
    for name in ("source_only", "adapted", "oracle", "adapted_on_source"):
        summary = json.loads((out / "evaluation" / name / "summary.json").read_text())
        assert set(summary["classes"]) == {"cup", "disc"} and summary["n"] > 0
        assert (out / "evaluation" / name / "cases.csv").exists()
    assert set(json.loads((out / "comparison.json").read_text())) == {"cup", "disc", "mean"}
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["mode"] == "strong"
    twins = list((out / "prepared").glob("*-*.image"))
    assert twins, "the source is trained on in the target's style as well"
    page = (out / "report.html").read_text("utf-8")
    for text in ("source only", "Worst case", "gap closed", "not read in training"):
        assert text in page, text
    assert f"report: {out / 'report.html'}" in done.stdout
    *steps, memory = done.stderr.splitlines()
    assert all(line.startswith("step ") and " left " in line for line in steps)
    assert memory.startswith("peak memory ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, start", [("category_regularization", ()), ("mean_teacher", ("--from-source-only",))]
)
def test_uda_clr_adapts_in_a_smoke_run(tmp_path, method, start):
    done = call("train_uda_clr", "--smoke", "--method", method, *start, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    source_only = json.loads((tmp_path / "run/source_only/config.json").read_text())
    assert (config["start"] == source_only["start"]) == (not start), "as published, or trained"
    assert config["method"] == "CategoryRegularization" and config["settings"]["separate"]
    assert (config["settings"]["mean_teacher"] > 0) == (method == "mean_teacher")
    summary = json.loads((tmp_path / "run/evaluation/adapted/summary.json").read_text())
    assert set(summary["classes"]) == {"cup", "disc"} and summary["n"] > 0


@pytest.fixture
def unlabelled(phantoms, tmp_path):
    """The phantoms without any target label."""
    cases = km.read_cases(phantoms)
    cases.loc[cases["domain"] == "camera_b", "mask"] = ""
    write_cases(cases, tmp_path / "cases.csv")
    return tmp_path / "cases.csv"


DOMAINS = {"source_domain": "camera_a", "target_domain": "camera_b"}


def test_without_target_labels_the_run_ends_with_a_label_free_page(unlabelled, tmp_path, capsys):
    adapt(flags(tmp_path, cases=unlabelled, **DOMAINS))
    said = "The target has no labels in its test part, so no accuracy can be given."
    assert said in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "no accuracy can be given" in page and page.count("data:image/png") > 0
    assert "masks of the source" in page and "HD95" not in page
    table = pd.read_csv(tmp_path / "run" / "label_free.csv")
    assert table["disagreement"].between(0, 1).all() and table["entropy"].ge(0).all()
    assert not (tmp_path / "run" / "evaluation").exists()


def test_labels_of_the_targets_training_part_are_never_read(phantoms, tmp_path):
    """They are replaced by files that cannot be read, and nobody notices."""
    folder = tmp_path / "data"
    shutil.copytree(phantoms.parent, folder)
    cases = km.read_cases(folder / "cases.csv")
    hidden = cases[(cases["domain"] == "camera_b") & (cases["split"] == "train")]
    for path in hidden["mask"]:
        Path(path).write_bytes(b"not an image")
    run = adapt(flags(tmp_path, cases=folder / "cases.csv", **DOMAINS))
    assert (run.path / "comparison.json").exists()
    Path(cases["mask"][cases["domain"] == "camera_a"].iloc[0]).write_bytes(b"not an image")
    with pytest.raises(DataError) as error:
        study.read_study(flags(tmp_path, cases=folder / "cases.csv", oracle=True, **DOMAINS))
    assert len(error.value.problems) == 1 + len(hidden), "of both domains at once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.assign(split=c["split"].where(c.index > 1, "")), "no split in 2 of"),
        (lambda c: c.assign(split="training"), "no source case of split 'train'"),
        (lambda c: c.assign(split="test"), "no target case of split 'train'"),
        (lambda c: c.assign(mask=c["mask"].where(c.index != c.index[0], "")), "no mask in 1 of"),
    ],
    ids=["half a split", "other names", "all in test", "a mask missing"],
)
def test_a_table_that_cannot_be_studied_is_refused_before_training(
    phantoms, tmp_path, change, message
):
    cases = change(km.read_cases(phantoms))
    write_cases(cases, tmp_path / "cases.csv")
    with pytest.raises(DataError, match=message):
        study.read_study(flags(tmp_path, cases=tmp_path / "cases.csv", **DOMAINS))


def test_splits_that_nothing_reads_are_warned_of(phantoms, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adaptation, "fit", lambda *_, **__: run)
    cases = km.read_cases(phantoms)
    tested = (cases["domain"] == "camera_b") & (cases["split"] == "test")
    cases.loc[tested, "split"] = "testing"
    write_cases(cases, tmp_path / "cases.csv")
    adapt(flags(tmp_path, cases=tmp_path / "cases.csv", init=run.path, **DOMAINS))
    said = capsys.readouterr()
    assert f"{tested.sum()} target cases of split 'testing' are not used" in said.err
    assert "The target has no test cases, so no accuracy can be given." in said.out


def test_data_sets_of_other_tasks_are_refused(tmp_path, monkeypatch):
    def data_set(overlapping):
        values = {"cup": (255,), "disc": (128, 255) if overlapping else (128,)}
        return lambda root: (None, km.Task(("cup", "disc"), overlapping, values))

    monkeypatch.setattr(study.catalog, "refuge", data_set(True))
    monkeypatch.setattr(study.catalog, "folders", data_set(False))
    settings = flags(
        tmp_path, source_dataset="refuge", source_root=tmp_path, target_dataset="folders",
        target_root=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"overlapping\) .* True\), target .* False\)"):
        study.read_study(settings)


def test_classes_are_those_of_plain_folders_and_of_no_data_set(phantoms, tmp_path, monkeypatch):
    cases = km.read_cases(phantoms)
    for row in cases.itertuples():
        for kind, file in (("images", row.image), ("masks", row.mask)):
            (folder := tmp_path / row.domain / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / f"{row.case}{Path(file).suffix}")
    data = {"source_dataset": "folders", "source_root": tmp_path, **DOMAINS}
    with pytest.raises(DataError, match="128"):
        study.read_study(flags(tmp_path, **data))
    found = study.read_study(flags(tmp_path, **data, classes=("disc=128,255",)))
    assert found.task.classes == ("disc",) and len(found.source)
    monkeypatch.setattr(study.catalog, "refuge", study.catalog.folders)
    with pytest.raises(ValueError, match="--classes is for --cases and folders; refuge has"):
        study.read_study(
            flags(tmp_path, **{**data, "source_dataset": "refuge"}, classes=("disc=128,255",))
        )


def test_a_table_without_rows_has_no_domain(tmp_path):
    (tmp_path / "cases.csv").write_text("case,image,domain\n")
    with pytest.raises(ValueError, match="no case of domain 'camera_a'; there are \\[\\]"):
        study.read_study(flags(tmp_path, cases=tmp_path / "cases.csv", **DOMAINS))


def test_patients_that_train_and_are_tested_are_warned_of(phantoms, tmp_path, capsys):
    settings = flags(tmp_path, cases=tmp_path / "cases.csv", **DOMAINS)
    cases = km.read_cases(phantoms)
    write_cases(cases, settings.cases)
    study.read_study(settings)
    assert "warning" not in capsys.readouterr().err
    trains = (cases["domain"] == "camera_a") & (cases["split"] == "train")
    tested = (cases["domain"] == "camera_b") & (cases["split"] == "test")
    cases.loc[trains, "group"] = cases.loc[tested, "group"] = "patient 7"
    write_cases(cases, settings.cases)
    study.read_study(settings)
    assert "target's test part: patient 7 (1 in all)" in capsys.readouterr().err


def test_a_patient_seen_by_both_scanners_is_on_one_side_of_a_split_that_is_made(phantoms, tmp_path):
    cases = km.read_cases(phantoms).assign(split="")
    cases["group"] = cases.groupby("domain").cumcount().map("patient {}".format)
    write_cases(cases, tmp_path / "cases.csv")
    found = study.read_study(flags(tmp_path, cases=tmp_path / "cases.csv", **DOMAINS))
    trains = {*found.source["group"], *found.target["group"]}
    tested = {*found.source_test["group"], *found.target_test["group"]}
    assert trains and tested and not trains & tested


def test_target_cases_without_a_mask_are_left_out_of_the_scores(phantoms, tmp_path):
    cases = km.read_cases(phantoms)
    test = cases[(cases["domain"] == "camera_b") & (cases["split"] == "test")]
    cases.loc[test.index[0], "mask"] = ""
    write_cases(cases, tmp_path / "cases.csv")
    found = study.read_study(flags(tmp_path, cases=tmp_path / "cases.csv", **DOMAINS))
    assert len(found.scored) == len(test) - 1
    assert [part["cases"] for part in found.parts if part["use"] == "none there"] == [1]


def test_a_run_of_other_classes_is_no_start(phantoms, run, tmp_path):
    swapped = ("disc=128,255", "cup=255")
    settings = flags(tmp_path, cases=phantoms, init=run.path, classes=swapped, **DOMAINS)
    with pytest.raises(ValueError, match=r"--init .*: classes \(\('cup', 'disc'\)"):
        adapt(settings)


def test_a_run_of_another_network_is_no_start(phantoms, run, tmp_path):
    settings = flags(tmp_path, cases=phantoms, init=run.path, **DOMAINS)
    with pytest.raises(
        ValueError, match=r"--init .*: a network of 2,104 parameters, expected 7,372"
    ):
        adapt(settings, filters=(8, 16))
    assert not settings.out.exists()


def test_init_skips_the_training_on_the_source(phantoms, run, tmp_path, capsys):
    settings = flags(tmp_path, cases=phantoms, init=run.path, precision="mixed_bfloat16", **DOMAINS)
    adapted = adapt(settings)
    assert "has not trained on this study's source cases" in capsys.readouterr().err
    assert not (settings.out / "source_only").exists()
    assert adapted.network.get_layer("features").compute_dtype == "bfloat16"


def test_predict_writes_masks_in_the_inputs_size(run, phantoms, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i, (size, name) in enumerate(
        [((50, 40), "a.png"), ((31, 64), "b.jpg"), ((64, 64), "c.tif")]
    ):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype="uint8")
        Image.fromarray(noise).save(images / name)
    (images / "notes.txt").write_text("not an image")
    done = call(
        "predict", "--run", run.path, "--images", images, "--out", tmp_path / "masks", "--overlays",
        "--precision", "mixed_bfloat16", "--xla",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, size in [("a.png", (50, 40)), ("b.png", (31, 64)), ("c.tif", (64, 64))]:
        with Image.open(tmp_path / "masks" / name) as mask:
            assert mask.size == size and set(np.unique(mask)) <= {0, 128, 255}
    assert len(list((tmp_path / "masks" / "overlays").iterdir())) == 3


def test_three_runs_under_flips_vote(run, phantoms, tmp_path):
    from keras_meduda.evaluation.ensemble import load_together

    image, out = km.read_cases(phantoms)["image"].iloc[0], tmp_path / "masks"
    done = call(
        "predict", "--run", *[run.path] * 3, "--flips", "X", "--images", image, "--out", out
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.iterdir()
    voted = km.predict(load_together([run.path] * 3, "X"), image)
    np.testing.assert_array_equal(Image.open(file), run.task.decode(run.task.masks(voted)))


def test_evaluate_prints_and_keeps_the_scores(run, phantoms, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    done = call("evaluate", "--run", copy, "--cases", phantoms, "--domain", "camera_b")
    assert done.returncode == 0, done.stderr
    assert "cup" in done.stdout and "HD95, px" in done.stdout and "MedPy" in done.stdout
    folder = copy / "evaluation" / "evaluation"
    assert {p.name for p in folder.iterdir()} == {"cases.csv", "summary.json", "report.html"}


def test_export_script(run, tmp_path):
    done = call("export_savedmodel", "--run", run.path, "--out", tmp_path / "model" / "1")
    assert done.returncode == 0 and "saved_model_cli show" in done.stdout, done.stderr
    assert (tmp_path / "model" / "1" / "saved_model.pb").exists()


MISTAKES = {  # what the user typed, and what the message says
    "no such table": (
        ["--cases", "nowhere.csv", "--source-domain", "a", "--target-domain", "b"],
        "nowhere.csv",
    ),
    "table without domains": (["--cases", "{cases}"], "--cases needs --source-domain"),
    "unknown domain": (
        ["--cases", "{cases}", "--source-domain", "camera_a", "--target-domain", "canon"],
        "no case of domain 'canon'; there are ['camera_a', 'camera_b']",
    ),
    "domains without data": (
        ["--source-domain", "zeiss", "--target-domain", "canon"],
        "--source-domain and --target-domain need data",
    ),
    "one domain twice": (
        ["--cases", "{cases}", "--source-domain", "camera_a", "--target-domain", "camera_a"],
        "6 image files are in the source and in the target",
    ),
    "table and data set": (
        ["--cases", "{cases}", "--source-dataset", "refuge"],
        "expected one of them",
    ),
    "half a data set": (
        ["--source-dataset", "refuge", "--source-root", "{tmp}"],
        "--target-root together",
    ),
    "empty data set": (
        [
            "--source-dataset",
            "refuge",
            "--source-root",
            "{tmp}",
            "--target-dataset",
            "refuge",
            "--target-root",
            "{tmp}",
        ],
        "found",
    ),
    "classes that make no sense": (
        [
            "--cases",
            "{cases}",
            "--source-domain",
            "camera_a",
            "--target-domain",
            "camera_b",
            "--classes",
            "cup=white",
        ],
        "received 'cup=white', expected name=value,value",
    ),
    "a mask value that is not declared": (
        [
            "--cases",
            "{cases}",
            "--source-domain",
            "camera_a",
            "--target-domain",
            "camera_b",
            "--classes",
            "cup=255",
        ],
        "128",
    ),
    "no such run to start from": (
        [
            "--cases",
            "{cases}",
            "--source-domain",
            "camera_a",
            "--target-domain",
            "camera_b",
            "--init",
            "{tmp}/nothing",
        ],
        "expected a run folder with config.json",
    ),
    "no update": (["--steps", "0"], "--steps 0: expected 1 or more"),
    "no seed": (["--seed", "-1"], "--seed -1: expected 0 or more"),
    "no rate": (["--learning-rate", "nan"], "--learning-rate nan: expected a number above 0"),
    "no side": (["--size", "96", "0"], "--size 0: expected 1 or more"),
    "no width": (["--filters"], "--filters: expected one value or more"),
    "an oracle without labels": (
        [
            "--cases",
            "{unlabelled}",
            "--source-domain",
            "camera_a",
            "--target-domain",
            "camera_b",
            "--oracle",
        ],
        "--oracle trains on the target's labels",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_message(
    mistake, phantoms, unlabelled, tmp_path, monkeypatch, capsys
):
    typed, message = MISTAKES[mistake]
    names = {"cases": phantoms, "unlabelled": unlabelled, "tmp": tmp_path}
    typed = [text.format(**names) for text in typed] + ["--smoke", "--out", tmp_path / "out"]
    code, error = call_here("train_aerunet_kd", *typed, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and message in error
    assert not [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".npz", ".image")]


def test_a_mistake_shows_no_traceback(tmp_path):
    done = call("predict", "--run", tmp_path, "--images", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "expected a run folder" in done.stderr


@pytest.mark.parametrize(
    ("script", "typed", "message"),
    [
        ("predict", ["--run", "{tmp}", "--images", "{cases}"], "expected a run folder"),
        ("predict", ["--run", "{run}", "--images", "{tmp}/no.png"], "no such file or folder"),
        ("predict", ["--run", "{run}", "--images", "{tmp}/empty"], "no image files found"),
        ("predict", ["--run", "{run}", "--images", "{tmp}", "--flips", "Z"], "expected distinct"),
        ("evaluate", ["--run", "{run}", "--cases", "{unlabelled}"], "no mask to compare with"),
        ("evaluate", ["--run", "{run}", "--cases", "{cases}", "--name", "a/b"], "the plain name"),
        (
            "evaluate",
            ["--run", "{run}", "--cases", "{cases}", "--split", "val"],
            "no case of split 'val'; there are ['test', 'train']",
        ),
        ("export_savedmodel", ["--run", "{run}", "--out", "{tmp}/empty"], "exists; choose another"),
    ],
)
def test_mistakes_with_a_trained_run(
    script, typed, message, run, phantoms, unlabelled, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    names = {"cases": phantoms, "unlabelled": unlabelled, "tmp": tmp_path, "run": run.path}
    typed = [text.format(**names) for text in typed]
    code, error = call_here(script, *typed, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and message in error
