"""Rows of the speed table that begin with a fresh process: start-up, first predictions and steps.

Medians of five; processor time counts, as it suffers less from a machine that is busy.
"""

import functools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from performance_steps import OURS

HERE = Path(__file__).resolve().parent
ROUNDS = 5
MEDUDA = ("-m", "keras_meduda")


def child(code, status=0, **env):
    """What a fresh process prints that ends with this status."""
    paths = {"PYTHONPATH": f"{HERE}:{HERE.parent}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env = {**os.environ, **paths, "TF_ENABLE_ONEDNN_OPTS": "1", **env}
    done = subprocess.run(
        [sys.executable, *map(str, code)], capture_output=True, text=True, env=env, cwd=HERE.parent
    )
    if done.returncode != status:
        raise OSError(f"{code} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def own(value, unit, goal=None):
    """One value of this project alone."""
    return {"peer": OURS, "value": value, "goal": goal, "unit": unit}


def start_up(code, status=0):
    """(wall, CPU) seconds of a fresh process."""
    times = []
    for _ in range(ROUNDS):
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        child(code, status)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((time.perf_counter() - wall, cpu))
    return [statistics.median(column) for column in zip(*times, strict=True)]


def help_of_scripts():
    """The slowest `--help` of all scripts."""
    scripts = sorted((HERE.parent / "scripts").glob("*.py"))
    wall, cpu = map(max, zip(*(start_up([s, "--help"]) for s in scripts), strict=True))
    return [own(wall, "s", 1.5), own(cpu, "s CPU", 1.5)]


def import_package():
    """`import keras_meduda` in a fresh interpreter."""
    wall, cpu = start_up(["-c", "import keras_meduda"])
    return [own(wall, "s", 0.3), own(cpu, "s CPU", 0.3)]


def first_predict():
    """`meduda predict` of one picture, end to end, on each engine with its graph kept."""
    released = HERE.parent / "weights" / "fundus_phantom"
    run = shutil.copytree(released, Path(tempfile.mkdtemp()) / "run")
    image = HERE.parent / "docs" / "images" / "phantom.png"
    command = [*MEDUDA, "predict", "--run", run, "--images", image, "--overwrite"]
    command += ["--out", tempfile.mkdtemp(), "--engine"]
    found = []
    for engine in ("tensorflow", "onnxruntime", "openvino"):
        child([*command, engine])  # writes the graph, and the masks that are overwritten
        wall, cpu = start_up([*command, engine])
        party = OURS if engine == "tensorflow" else f"{OURS}, {engine}"
        found += [{**own(wall, "s"), "peer": party}, {**own(cpu, "s CPU", 3.0), "peer": party}]
    _, cpu = start_up(["-c", "import tensorflow"])
    return [*found, {**own(cpu, "s CPU"), "peer": "import of TensorFlow alone"}]


def mistakes():
    """The slowest message of a path or a flag that cannot be."""
    run, image = HERE.parent / "weights" / "fundus_phantom", HERE.parent / "docs/images/phantom.png"
    wrong = (
        ["predict", "--run", run, "--images", "nowhere.png"],
        ["predict", "--run", "nowhere", "--images", image],
        ["predict", "--run", image.parent, "--images", image],
        ["predict", "--run", run, "--images", image, "--engine", "nothing"],
        ["evaluate", "--run", run, "--cases", "nowhere.csv"],
        ["adapt", "--source", "nowhere", "--target", "nowhere"],
        ["train", "--no-such-flag"],
    )
    wall, cpu = map(max, zip(*(start_up([*MEDUDA, *w], 2) for w in wrong), strict=True))
    return [own(wall, "s", 1.5), own(cpu, "s CPU", 1.5)]


FIRST = """
import time
import tensorflow as tf
from performance_steps import regularisation

take = regularisation("PARTY")
times = []
for _ in range(2):
    began = time.perf_counter(), time.process_time()
    take()
    times += [time.perf_counter() - began[0], time.process_time() - began[1]]
print(*times)
"""


def first_step(party):
    """The first step of a training, which builds its graph, and the one after it."""
    code = FIRST.replace("PARTY", party)
    times = [list(map(float, child(["-c", code]).split()[-4:])) for _ in range(ROUNDS)]
    first, first_cpu, next_, next_cpu = map(statistics.median, zip(*times, strict=True))
    after = "the step after"
    return [
        own(first, "s"),
        {**own(next_, "s"), "peer": after},
        own(first_cpu, "s CPU"),
        {**own(next_cpu, "s CPU"), "peer": after},
    ]


STARTS = {
    "help_of_scripts": help_of_scripts,
    "import": import_package,
    "first_predict": first_predict,
    "mistake": mistakes,
    "first_step_UDA_CLR": functools.partial(first_step, OURS),
    "first_step_DeepLabV3Plus": functools.partial(first_step, "supervised"),
}
