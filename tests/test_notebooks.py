"""Every notebook runs from top to bottom, is kept with what its code gave, and hides no code."""

import ast
import os
import re
import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="the extra `test` brings nbclient and nbformat")
BUILD = runpy.run_path(str(NOTEBOOKS[0].with_name("build.py")))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_those_of_its_code(path):
    """All cells ran in order, with the code that stands there, and name no folder of a machine.

    One that `make notebooks` has not run yet has no outputs at all.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if BUILD["of_last_run"](notebook) is None:
        assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
        return
    assert BUILD["of_last_run"](notebook) == BUILD["fingerprint"](notebook), "run make notebooks"
    cells = [cell for cell in code(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert not re.search(r"/tmp/|/home/|/root/", str(outputs))
    assert path.stat().st_size <= BUILD["LARGEST"]


def test_a_change_of_the_code_is_seen(notebook):
    before = BUILD["fingerprint"](notebook)
    notebook.cells[0].source += " "  # text
    assert BUILD["fingerprint"](notebook) == before
    code(notebook)[0].source += "\nx = 1"
    assert BUILD["fingerprint"](notebook) != before


def test_it_imports_the_library_and_public_packages_alone(notebook):
    """No helper module of its own: what a reader sees is what runs."""
    known = {"os", "shutil", "tempfile", "pathlib", "keras", "keras_meduda", "matplotlib.pyplot"}
    known |= {"numpy", "pandas"}
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert all(n in known or n.startswith("keras_meduda.") for n in names), names


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(notebook, tmp_path):
    """As a reader runs it, but small; pictures come out inline."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    env = {**os.environ, "MEDUDA_SMOKE": "1", "TMPDIR": str(tmp_path)}
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(tmp_path), env=env)
    kinds = {
        kind for cell in code(notebook) for out in cell.outputs for kind in out.get("data", {})
    }
    assert "image/png" in kinds
