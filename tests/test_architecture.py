"""The way of the data is one-directional, and each framework stays where it belongs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_meduda"
ORDER = [  # a module imports only from what stands to its left
    "progress",
    "data._cv2",
    "data.spatial",
    "data.channels",
    "data.values",
    "data.intensity",
    "data.bands",
    "preprocessing",
    "task",
    "data.files",
    "data.cache",
    "data.tiff",
    "data.pictures",
    "data.nifti",
    "data.itk",
    "data.dicom",
    "data.io",
    "data.cases",
    "data.splits",
    "data.parts",
    "data.checks",
    "data.subset",
    "data.few",
    "data.matlab",
    "data.catalog",
    "data.boxes",
    "data.roi",
    "data.augment",
    "data.boundary",
    "data.phantoms",
    "teachers",
    "data.pipeline",
    "data.serving",
    "losses",
    "optimizers",
    "models",
    "methods.base",
    "methods",
    "run.sliding",
    "run.sliding_graph",
    "run.decided",
    "run.model_card",
    "run.bundle",
    "run.exchange",
    "run.engines",
    "run.devices",
    "run.loading",
    "run",  # whose names are those of run.loading
    "run.released",
    "run.saved_model",
    "run.distribution",
    "run.scope",
    "run.extension",
    "run.folder",
    "run.training_checks",
    "run.training",
    "evaluation",
    "experiment.options",
    "experiment.prompting",
    "experiment.backend",
    "experiment.data",
    "experiment.networks",
    "experiment.start",
    "experiment.bscans",
    "experiment.grids",
    "experiment.one_domain",
    "experiment.shift",
    "experiment.domains",
    "experiment.lesions",
    "experiment.recipe",
    "experiment.forecast",
    "experiment.shares",
    "experiment.styles",
    "experiment.teaching",
    "experiment.guarding",
    "experiment.few_labels",
    "experiment.promise",
    "experiment.results",
    "experiment.runner",
    "experiment.repeats",
    "recipes",
    "commands",
    "experiment.command_line",
    "__main__",
]
PARENTS = ("data", "evaluation", "experiment")  # whose modules have places of their own
TENSORFLOW = (
    "data/",
    "methods/base.py",
    "run/devices.py",
    "run/distribution.py",
    "run/folder.py",
    "run/loading.py",
    "run/saved_model.py",
    "run/scope.py",
    "run/training.py",
    "evaluation/predict.py",
    "evaluation/served.py",
)
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def position(module):
    """Place in the order of the longest name that the module starts with."""
    fits = [i for i, name in enumerate(ORDER) if f"{module}.".startswith(f"{name}.")]
    return max(fits, key=lambda i: len(ORDER[i]), default=None)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_left(file):
    own = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    place = position(own)
    assert place is not None or own in PARENTS, f"{own} has no place in ORDER"
    for module in imports(file):
        other = position(module.removeprefix("keras_meduda."))
        if module.startswith("keras_meduda.") and other is not None:
            assert other <= place, f"{own} imports {module}, which stands to its right"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_frameworks_stay_where_they_belong(file):
    name = file.relative_to(PACKAGE).as_posix()
    roots = {module.split(".")[0] for module in imports(file)}
    assert not roots & {"torch", "ultralytics"} or name.startswith("teachers/")
    assert "tensorflow" not in roots or name.startswith(TENSORFLOW)
    assert "medpy" not in roots or name == "evaluation/metrics.py"


def run_python(code):
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    env.pop("TF_ENABLE_ONEDNN_OPTS", None)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


LIGHT = (
    "keras_meduda", "keras_meduda.task", "keras_meduda.data.cases", "keras_meduda.data.catalog",
    "keras_meduda.evaluation.metrics", "keras_meduda.run", "keras_meduda.teachers.grabcut",
    "keras_meduda.teachers.network", "keras_meduda.teachers.sam2", "keras_meduda.teachers.yolo",
    "keras_meduda.teachers.sam2_keras",
)  # fmt: skip


def test_what_a_framework_is_not_needed_for_loads_none():
    done = run_python(
        f"import importlib, sys\nfor name in {LIGHT}:\n    importlib.import_module(name)\n"
        "    assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules), name"
    )
    assert done.returncode == 0, done.stderr


def test_training_and_prediction_load_no_medpy():
    done = run_python(
        "import sys, keras_meduda.run.training, keras_meduda.evaluation.predict, "
        "keras_meduda.run.saved_model; assert 'medpy' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


ONEDNN = (
    "from tensorflow.python.util._pywrap_util_port import IsMklEnabled, IsX86Available\n"
    "missing = IsX86Available() and not IsMklEnabled()\n"
)


def test_tensorflow_starts_with_onednn():
    done = run_python(f"import keras_meduda\n{ONEDNN}assert not missing")
    assert done.returncode == 0, done.stderr


def test_a_start_without_onednn_is_told():
    done = run_python(
        f"{ONEDNN}import warnings, keras_meduda as km\n"
        "with warnings.catch_warnings(record=True) as told, km.setup(): pass\n"
        "assert bool(told) == missing, told"
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    import keras_meduda as km

    for name in km.__all__:
        assert getattr(km, name) is not None


def test_a_run_s_names_are_those_of_the_library():
    import keras_meduda as km

    for name in {*km.run.__all__} & {*km.__all__}:
        assert getattr(km.run, name) is getattr(km.training, name) is getattr(km, name)
