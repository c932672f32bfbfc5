"""Every notebook runs from top to bottom, is kept without outputs, and hides no code."""

import ast
import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="the extra `test` brings nbclient and nbformat")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_valid_and_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None, cell.source[:60]


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
