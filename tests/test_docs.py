"""What the documentation says is done: its commands, its Python, its links."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

import keras_meduda as km
from keras_meduda.data.cases import write_cases
from keras_meduda.data.phantoms import write_brain, write_brain_slices, write_fundus, write_oct
from keras_meduda.experiment import command_line

ROOT = Path(__file__).parents[1]
OUTSIDE = [  # of the site
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("weights", "benchmarks")),
]
PAGES = [*OUTSIDE, *sorted(ROOT.glob("docs/*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)  # console and python run; sh, py do not


def blocks(page):
    """Language and text of every fenced block of a page."""
    return FENCE.findall(page.read_text())


def commands(text):
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page):
    """One that says nothing would be looked at by none of these tests."""
    fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
    assert all(fences[::2]) and not any(fences[1::2])


CALLS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words[:4])}")
    for page in PAGES
    for language, text in blocks(page)
    if language in ("console", "sh")
    for words in commands(text)
    if words[0] == "meduda" or words[0].endswith("python") and words[1].startswith("scripts/")
]


@pytest.mark.parametrize("words", CALLS)
def test_every_flag_of_a_command_is_one_of_the_script(words, monkeypatch):
    """The flags are parsed as they stand there; nothing runs."""
    monkeypatch.setattr(command_line, "run_script", lambda _, flags, *rest: tyro.cli(flags))
    if words[0] == "meduda":
        monkeypatch.setattr(sys, "argv", words)
        command_line.main()
    else:
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")


@pytest.fixture
def desk(tmp_path):
    """A folder in which the names of the documentation exist: data, scripts, weights."""
    for name in ("scripts", "docs", "serving"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("models"))
    shutil.copytree(ROOT / "weights", tmp_path / "weights")
    cases = km.read_cases(write_fundus(tmp_path, cases_per_domain=8, size=64))
    cases["domain"] = cases["domain"].map({"camera_a": "zeiss", "camera_b": "canon"})
    write_cases(cases, tmp_path / "cases.csv")
    (tmp_path / "new_images").mkdir()
    for name, path in zip("ab", cases["image"], strict=False):
        shutil.copy(path, tmp_path / "new_images" / f"{name}.png")
    cases.loc[cases["domain"] == "canon", "mask"] = ""
    write_cases(cases, tmp_path / "unlabelled.csv")
    write_oct(tmp_path / "oct", subjects=3, scans=2, size=64)
    write_brain_slices(tmp_path / "brain", cases=16, size=64)
    write_brain(tmp_path / "brains", cases_per_domain=6, size=(24, 28, 16), domains=["flair"])
    return tmp_path


RUNNABLE = [page for page in PAGES if {"console", "python"} & {kind for kind, _ in blocks(page)}]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs_from_top_to_bottom(page, desk, monkeypatch):
    """Commands in processes of their own, trainings with --smoke, Python in one namespace."""
    monkeypatch.chdir(desk)
    binaries = str(Path(sys.executable).parent)
    env = {**os.environ, "COLUMNS": "120", "PATH": binaries + os.pathsep + os.environ["PATH"]}
    namespace = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), namespace)
        for words in commands(text) if language == "console" else []:
            trains = "scripts/train_" in words[1] or words[1] in ("adapt", "train", "distil")
            words = [*words, "--smoke"] if trains and "--smoke" not in words else words
            if words[0] == "meduda":
                words = [sys.executable, "-m", "keras_meduda", *words[1:]]
            done = subprocess.run(words, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-800:]}\n{done.stderr}"


def test_the_site_builds_without_a_warning(tmp_path):
    """Dead links, missing anchors and pages, and names that the API page cannot find."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "adding_a_method" / "index.html").read_text()
    assert "block_seed" in page  # the method is set into it


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_outside_the_site_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_in_backticks_exist(page):
    folders = "docs|scripts|serving|tests|benchmarks|keras_meduda|notebooks"
    for name in re.findall(rf"`((?:{folders})/[\w./]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_version_is_the_same_everywhere():
    assert f"## {km.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {km.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f'version="{km.__version__}"' in (ROOT / "setup.py").read_text()


def test_the_weights_page_says_what_the_manifest_says():
    manifest = json.loads((ROOT / "weights" / "manifest.json").read_text())
    text = (ROOT / "weights" / "README.md").read_text()
    for name, entry in manifest.items():
        dice = ", ".join(f"{label} {value:.3f}" for label, value in entry["score"]["dice"].items())
        assert re.search(rf"`{name}` \|.*\| {dice} \|", text)
        assert entry["command"] in text
