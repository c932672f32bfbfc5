"""A wheel works outside a checkout: the command, a first try, the released weights."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_meduda.experiment.command_line import COMMANDS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def call(*words, cwd=None):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the programs of an environment that has the wheel, and what the wheel needs."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source, env = folder / "source", folder / "env"
    for name in ("keras_meduda", "weights"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    quiet = ("-m", "pip", "--disable-pip-version-check", "-q")
    alone = ("--no-deps", "--no-build-isolation")
    call(sys.executable, *quiet, "wheel", source, *alone, "-w", folder)
    call(sys.executable, "-m", "venv", "--without-pip", env)
    python = env / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    call(sys.executable, *quiet, "--python", python, "install", "--no-deps", wheel)
    (site,) = env.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return env / "bin"


def test_the_command_is_there_and_lists_what_it_can(installed, tmp_path):
    out = call(installed / "meduda", "--help", cwd=tmp_path)
    assert all(f"    {name}" in out for name in COMMANDS)
    code = "import keras_meduda; print(keras_meduda.__file__)"
    file = call(installed / "python", "-c", code, cwd=tmp_path)
    assert Path(file).is_relative_to(installed.parent)


def test_a_first_try_trains_and_reports(installed, tmp_path):
    out = call(installed / "meduda", "adapt", "--smoke", "--out", tmp_path / "run", cwd=tmp_path)
    assert "adapted" in out and (tmp_path / "run" / "report.html").exists()


def test_the_released_weights_predict(installed, tmp_path):
    Image.fromarray(np.zeros((50, 40, 3), "uint8")).save(tmp_path / "scan.png")
    where = "from keras_meduda.run.released import FOLDER; print(FOLDER)"
    folder = Path(call(installed / "python", "-c", where, cwd=tmp_path).strip())
    assert folder.is_relative_to(installed.parent)
    words = ("--run", folder / "fundus_phantom", "--images", "scan.png", "--out", "masks")
    call(installed / "meduda", "predict", *words, cwd=tmp_path)
    assert Image.open(tmp_path / "masks" / "scan.png").size == (40, 50)
