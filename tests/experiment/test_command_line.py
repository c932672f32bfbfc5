"""The command line: help at once, a user's mistake in one message, scripts as shims of it."""

import ast
import json
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_meduda.experiment.command_line import COMMANDS, check_values, run_script
from keras_meduda.experiment.options import Options

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RECIPES = sorted(path.stem for path in (ROOT / "keras_meduda" / "recipes").glob("[!_]*.py"))


def shown_commands(module):
    """The commands in a module's docstring."""
    lines = (line.strip() for line in module.__doc__.splitlines())
    return [line for line in lines if line.startswith(("python ", "meduda "))]


def assert_shows(out, module, name):
    """The commands as who has installed a wheel calls them, without a folder of scripts."""
    shown = [line.strip() for line in out.splitlines()]
    assert "usage:" in out and shown_commands(module)
    for command in shown_commands(module):
        assert re.sub(r"^python scripts/\w+\.py", name, command) in shown
    assert "python scripts" not in out


def test_the_commands_are_listed(meduda):
    for words in ((), ("--help",), ("-h",)):
        code, out, _ = meduda(*words)
        assert code == 0 and all(f"    {name}" in out for name in COMMANDS)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("adapt", "train", "distil")])
def test_help_of_a_command(meduda, name):
    code, out, error = meduda(name, "--help")
    assert code == 0 and f"usage: meduda {name} " in out, error
    assert_shows(out, import_module(f"keras_meduda.commands.{name}"), f"meduda {name}")


@pytest.mark.parametrize("name", RECIPES)
def test_help_of_a_recipe(meduda, name):
    code, out, error = meduda("train", name, "--help")
    assert code == 0 and f"usage: meduda train {name} " in out, error
    assert_shows(out, import_module(f"keras_meduda.recipes.{name}"), f"meduda train {name}")


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["adapt", "--help"], "adapt"),
        (["adapt", "--run", "a", "--help"], "source_free"),
        (["adapt", "--run=a", "--help"], "source_free"),
        (["distil", "--help"], "meddistill"),
        (["train", "--help"], "combination"),
    ],
)
def test_commands_that_are_recipes(meduda, words, recipe):
    _, out, _ = meduda(*words)
    assert_shows(out, import_module(f"keras_meduda.recipes.{recipe}"), f"meduda {words[0]}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_of_a_script(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    assert f"python scripts/{script.name}" in capsys.readouterr().out


def test_help_loads_no_framework():
    """It answers at once; the other flags are parsed before anything heavy is loaded, too."""
    lines = ["import contextlib, importlib, sys"]
    lines += ["from keras_meduda.experiment import command_line"]
    lines += ["sys.argv = ['meduda', 'adapt', '--help']"]
    lines += ["with contextlib.suppress(SystemExit): command_line.main()"]
    lines += [f"import keras_meduda.recipes.{name}" for name in RECIPES]
    commands = (ROOT / "keras_meduda" / "commands").glob("[!_]*.py")
    lines += [f"import keras_meduda.commands.{path.stem}" for path in commands]
    lines += ["assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adpat"], "no command 'adpat'; did you mean adapt? There are adapt, train"),
        (["train", "uda_crl"], "no recipe 'uda_crl'; did you mean uda_clr? There are adapt"),
        (
            ["train", "--method", "supervised", "--network", "UNett", "--smoke", "--out", "{tmp}"],
            "invalid choice 'UNett'",
        ),
        (
            ["train", "--method", "supervised", "--network", "DeepLabV3Plus", "--volumes",
             "--smoke", "--out", "{tmp}"],
            "DeepLabV3Plus takes no volumes; AERUNet",
        ),
        (
            ["train", "--method", "supervised", "--network", "DynUNet", "--backbone", "resnet50",
             "--smoke", "--out", "{tmp}"],
            "DynUNet takes no --backbone; AERUNet, DeepLabV3Plus, UNet, UNetPlusPlus do.",
        ),
        (["train", "--method", "beel", "--network", "UNet"], "invalid choice"),
        (["train", "oct", "--stepps", "3"], "Unrecognized"),
    ],
)  # fmt: skip
def test_names_that_do_not_exist(meduda, tmp_path, words, message):
    code, out, error = meduda(*(word.format(tmp=tmp_path) for word in words))
    assert code == 2 and message in " ".join((out + error).split())


NOTHING = "{tmp}/nothing: expected one that is there; found no such file or folder"
NO_RUN = "{tmp}: expected a run folder with config.json"
TABLE, NONE = ["--cases", "{tmp}/cases.csv"], ["--cases", "{tmp}/nothing"]
RUN = ["--run", str(ROOT / "weights" / "fundus_phantom")]
MISTAKES = [
    (["predict", "--run", "{tmp}/nothing", "--images", "{tmp}"], NOTHING),
    (["predict", "--run", "{tmp}", "--images", "{tmp}"], NO_RUN),
    (["predict", *RUN, "--images", "{tmp}/nothing"], NOTHING),
    (["predict", *RUN, "--images", "{tmp}"], "{tmp}: no image files found"),
    (["evaluate", "--run", "{tmp}/nothing", *NONE], NOTHING),
    (["evaluate", *RUN, *TABLE, "--domain", "here"], "no case of domain 'here'"),
    (["evaluate", *RUN, *TABLE, "--engine", "openvino", "--precision", "mixed_float16"],
     "expected float32"),
    (["export", "--run", "{tmp}", "--out", "{tmp}/a.onnx"], NO_RUN),
    (["bundle", "--run", "{tmp}/nothing", "--out", "{tmp}/a.zip"], NOTHING),
    (["check", *NONE], NOTHING),
    (["boxes", *NONE], NOTHING),
    (["rois", *NONE, "--out", "{tmp}"], NOTHING),
    (["detect", "predict", "--weights", "a.pt", *NONE], NOTHING),
    (["teach", *NONE], NOTHING),
    (["teach", *TABLE, "--teacher", "network", "--weights", "{tmp}"], NO_RUN),
    (["convert", "--checkpoint", "{tmp}/nothing", "--out", "{tmp}/a.npz"], NOTHING),
    (["convert", "--checkpoint", "{tmp}", "--out", "{tmp}/a.pt"], "ends in .weights.h5 or .npz"),
    (["adapt", *NONE], NOTHING),
    (["adapt", "--smoke", "--out", "{tmp}/cases.csv/run"], "{tmp}/cases.csv cannot be written"),
    (["adapt", *TABLE, "--source-domain", "a", "--target-domain", "here"], "domain 'here'"),
    (["adapt", "--init", "{tmp}", "--smoke"], NO_RUN),
    (["adapt", "--run", "{tmp}/nothing", "--images", "{tmp}", "--out", "{tmp}/out"], NOTHING),
    (["adapt", "--run", "{tmp}", "--images", "{tmp}", "--out", "{tmp}/out"], NO_RUN),
    (["adapt", *RUN, "--images", "{tmp}/nothing", "--out", "{tmp}/out"], NOTHING),
    (["distil", *NONE, "--boxes", "{tmp}/nothing"], NOTHING),
    (["distil", *TABLE], "no masks of train cases to take boxes from"),
    (["train", "--method", "supervised", "--network", "UNett"], "invalid choice 'UNett'"),
    (["train", "--method", "supervised", "--network", "UNet", *NONE], NOTHING),
    (["train", "oct", "--init", "{tmp}/nothing"], NOTHING),
    (["train", "oct", *TABLE], "no case of split test and train with a mask"),
    (["train", "ratlesnet", "--vote", "{tmp}"], NO_RUN),
    (["train", "ratlesnet", "--dataset", "ratlesnet", "--root", "{tmp}/nothing"], NOTHING),
    (["train", "uda_clr", *NONE, "--source-domain", "a", "--target-domain", "b"], NOTHING),
]  # fmt: skip


def test_mistakes_are_told_before_a_framework_is_loaded(tmp_path):
    """Each is one message, in a process in which nothing has loaded TensorFlow so far."""
    (tmp_path / "cases.csv").write_text("case,domain,image\na,a,images/a.png\n")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(tmp_path / "images" / "a.png")
    told = [[[w.format(tmp=tmp_path) for w in words], said.format(tmp=tmp_path)]
            for words, said in MISTAKES]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(told)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


WALK = """
import contextlib, io, json, sys
from keras_meduda.experiment.command_line import main

for words, message in json.loads(sys.argv[1]):
    sys.argv, said = ["meduda", *words], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as end:
            assert end.code == 2, words
    assert message in " ".join(said.getvalue().split()), (words, said.getvalue())
    assert not {"tensorflow", "keras", "torch"} & set(sys.modules), words
"""


def test_who_asks_for_it_sees_the_traceback(meduda, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDUDA_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        meduda("predict", "--run", tmp_path, "--images", tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("received 3"), 2, "received 3"),
        (KeyboardInterrupt(), 130, ""),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), 2, "Expected smaller images"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "out of memory: Unable to allocate 9 TiB"),
        (type("NotFoundError", (Exception,), {})("no DT_HALF"), 2, "lacks an operation in half"),
    ],
)
def test_how_a_script_ends(monkeypatch, capsys, error, code, said):
    def script(flags):
        raise error

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit) as end:
        run_script(script, Options, "A script.")
    assert end.value.code == code and said in capsys.readouterr().err


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch):
    def script(flags):
        raise KeyError("a fault")

    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(KeyError):
        run_script(script, Options, "A script.")


@pytest.mark.parametrize("seed", [-1, float("nan"), float("inf")])
def test_a_number_stands_within_the_bounds_beside_it(seed):
    with pytest.raises(ValueError, match=f"--seed {seed}: expected (0 or more|a finite number)"):
        check_values(Options(seed=seed))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_stands_for(script):
    named = ast.get_docstring(ast.parse(script.read_text()))
    for path in (word for word in named.split("`") if word.startswith("keras_meduda/")):
        assert (ROOT / path).is_file()
