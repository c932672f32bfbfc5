"""What was run: the network, its training, the machine, in words for the foot of a report."""

import json
import shlex
import sys
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

import keras

from keras_meduda.progress import duration

HD95 = (
    "HD95 is the 95th percentile of the pooled distances between the two surfaces, in both "
    "directions (MedPy's definition); MONAI and DeepMind define it otherwise. Both masks empty: "
    "Dice 1, distance 0. One empty: Dice 0, distance the image's diagonal."
)


def about_run(run) -> dict[str, str]:
    """Network, method, input and settings of a run, `{term: text}`.

    Args:
        run: as `km.load` gives it.
    """
    file = run.path / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    p = run.preprocessing
    size = " × ".join(map(str, p.size))
    facts = {
        "Network": f"{run.network.name}, {run.network.count_params():,} parameters",
        "Input": f"{size} {'px' if len(p.size) == 2 else 'voxels'}, {p.channels} "
        f"channel{'s' if p.channels > 1 else ''}: {', '.join(_steps(p))}",
        "Classes": ", ".join(run.task.classes)
        + (" (may overlap)" if run.task.overlapping and len(run.task.classes) > 1 else ""),
    }
    if config:
        settings = ", ".join(
            f"{name} {_word(value)}"
            for name, value in config.get("settings", {}).items()
            if value is not None
        )
        facts["Method"] = config["method"] + (f" ({settings})" if settings else "")
        facts["Training"] = (
            f"{config['steps']:,} steps of {config['batch_size']}, seed {config['seed']}, "
            f"weights kept: {config['keep']}"
        )
    facts["First weights"] = config.get("weights") or "random"
    policies = {layer.dtype_policy.name for layer in run.network.layers} - {"float32"}
    facts["Precision"] = ", ".join(sorted(policies)) or "float32"
    return facts


def about_session(began: float) -> dict[str, str]:
    """Command, date, duration, versions and device, `{term: text}`.

    Args:
        began: `time.perf_counter()` when the work began.
    """
    names = ("keras-meduda", "keras", "tensorflow", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    devices = keras.distribution.list_devices()
    return {
        "Command": shlex.join(["python", *sys.argv]),
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Duration": f"{duration(time.perf_counter() - began)}, this call",
        "Versions": f"{versions}, Python {sys.version.split()[0]}",
        "Device": ", ".join(devices),
    }


def _steps(preprocessing):
    """What happens to an image on its way into the network, in order."""
    if preprocessing.spacing:
        yield f"{' × '.join(f'{s:g}' for s in preprocessing.spacing)} mm"
    yield from (preprocessing.fit, *preprocessing.intensity, preprocessing.normalise)


def _word(value):
    return value if isinstance(value, str) else json.dumps(value)


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:  # such as TensorFlow under the name of another build
        return "of unknown version"
