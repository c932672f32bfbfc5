"""What other systems have not: `resource`, a log in UTF-8, a clone of another name."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, *arguments, **options):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, env=env, **options)


def test_memory_is_told_without_resource():
    """As on Windows, where psutil tells it, or nobody."""
    done = python(
        "import sys, types, keras_meduda.experiment.command_line\n"
        "from keras_meduda.progress import peak_memory\n"
        "assert peak_memory() > 1e7\n"
        "sys.platform = 'win32'\n"
        "sys.modules['resource'] = sys.modules['psutil'] = None\n"
        "assert peak_memory() == 0\n"
        "held = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(peak_wset=7))\n"
        "sys.modules['psutil'] = types.SimpleNamespace(Process=lambda: held)\n"
        "assert peak_memory() == 7"
    )
    assert done.returncode == 0, done.stderr


def test_memory_is_a_process_own_and_not_that_of_its_parent():
    held = bytearray(b"1" * 400_000_000)
    done = python("from keras_meduda.progress import peak_memory; print(peak_memory())")
    assert int(done.stdout) < len(held)


@pytest.mark.parametrize("script", ["predict", "evaluate", "prepare_rois", "train_uda_clr"])
def test_scripts_start_without_resource(script):
    done = python(
        "import sys, runpy; sys.modules['resource'] = None\n"
        "sys.argv = [sys.argv[1], '--help']; runpy.run_path(sys.argv[0], run_name='__main__')",
        str(ROOT / "scripts" / f"{script}.py"),
    )
    assert done.returncode == 0 and b"usage:" in done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "cp437", "utf-8"])
def test_a_log_of_another_encoding_lacks_a_sign_and_no_line(encoding):
    done = python(
        "import sys\nfrom keras_meduda.progress import tolerate_encodings\n"
        "tolerate_encodings()\nprint('source → target, ≤ ½ Müller')\n"
        "print('眼底', file=sys.stderr)",
        env={"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert text.startswith("source ") and " target, " in text
    assert ("→" in text) == (encoding == "utf-8")


def test_an_editable_installation_is_found_from_beside_the_clone(tmp_path):
    """The clone's folder, of the package's name, is an empty package to whoever stands beside it.

    A path that installation writes goes before it; a hook of the importer would not be asked.
    """
    build = "from runpy import run_path; import sys; sys.argv[0] = 'setup.py'; run_path('setup.py')"
    done = python(
        build, "-q", "editable_wheel", "--dist-dir", str(tmp_path), cwd=ROOT, env={"PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    (pth,) = [name for name in names if name.endswith(".pth")]
    assert not [name for name in names if name.endswith(".py")]
    (line,) = zipfile.ZipFile(wheel).read(pth).decode().splitlines()
    (tmp_path / "keras_meduda" / "keras_meduda").mkdir(parents=True)
    done = python(
        "import keras_meduda; print(keras_meduda.__version__)",
        cwd=tmp_path,
        env={"PYTHONPATH": line},
    )
    assert done.returncode == 0 and done.stdout.strip() == b"0.1.0", done.stderr
