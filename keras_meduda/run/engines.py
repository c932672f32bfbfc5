"""Other runtimes for prediction: ONNX Runtime and OpenVINO compute what a run's network does.

The network is written once as an ONNX file, which is kept in the run folder, and written again when
its weights or layers change. Both compute in float32, on processors. TensorFlow is loaded to write
that file, and not to compute with it.
"""

import hashlib
import importlib.util
import os
import time
from pathlib import Path

import numpy as np

ENGINES = ("tensorflow", "onnxruntime", "openvino")
NEAR = 1e-3  # of the threshold: the probabilities whose side may differ between engines
ABANDONED = 600  # seconds after which a file that is not finished has no process any more
CHANGED = "changed"  # in the name of a file whose network is not, or no longer, that of its folder


def check_engine(engine, precision=None) -> None:
    """Refuses an engine that is unknown or not installed, or a precision that it has not.

    Raises:
        ValueError: another word, or a precision other than float32.
        ImportError: which extra holds the engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"load: engine={engine!r}; expected one of {ENGINES}.")
    if engine == "tensorflow":
        return
    if precision not in (None, "float32"):
        raise ValueError(f"load: precision={precision!r} with engine={engine!r}; expected float32.")
    for module in (engine, "tf2onnx"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"load: engine={engine!r} needs {module}; pip install 'keras-meduda[engines]'."
            )


def suggestion(engine: str, precision=None) -> str | None:
    """One line that names the fastest installed engine; `None` on a GPU, or if it is in use.

    Args:
        engine: the one in use.
        precision: in which it computes; other engines know float32 alone.
    """
    fastest = "openvino", "onnxruntime"  # in the order of benchmarks/performance.md
    installed = [name for name in fastest if importlib.util.find_spec(name)]
    if engine != "tensorflow" or not installed or not importlib.util.find_spec("tf2onnx"):
        return None
    import keras

    if precision not in (None, "float32") or keras.distribution.list_devices("gpu"):
        return None
    return f"{installed[0]} is installed, and often faster on a processor: --engine {installed[0]}"


def logits_function(network, name, shape, task, engine, folder):
    """A function from inputs of a network to its logits, computed by another engine.

    The masks of one random input are compared with TensorFlow's when the file is written; pixels
    that differ are counted and said.

    Args:
        network: function without arguments that gives the Keras network; called if there is no
            file yet.
        name: of the network, another one when it changes.
        shape: of one input, `(*spatial, channels)`.
        task: makes masks of probabilities.
        engine: `"onnxruntime"` or `"openvino"`.
        folder: the run folder, in whose `engines/` the file is kept; `None`, or one that cannot be
            written, is replaced by the user's cache folder.

    Returns:
        Function from float32 `(batch, *spatial, channels)` to logits likewise.

    Raises:
        ValueError: an operation that the engine lacks, and which layer has it, or masks that differ
            beyond 1e-3 of the threshold.
    """
    name = f"{engine}-{name}.onnx"
    places = [*([Path(folder) / "engines"] if folder else []), _cache_folder()]
    kept = next((place / name for place in places if (place / name).is_file()), None)
    if kept:
        try:
            return _session(engine, kept)
        except Exception as error:  # each engine has errors of its own for a damaged file
            print(f"{kept} cannot be read ({str(error).splitlines()[0][:100]}): written again")
    path = kept or _writable(places) / name
    if path.parent == places[0]:
        _remove_outdated(path, engine)
    elif folder:
        print(f"{places[0]} cannot be written: the engine's graph is kept as {path}")
    _write(network(), path, shape, task, engine)
    return _session(engine, path)


def digest_of_file(path) -> str:
    """A name for the network in a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest(network) -> str:
    """A name for the layers and weights of a network."""
    digest = hashlib.blake2b(network.to_json().encode(), digest_size=8)
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


def _write(network, path, shape, task, engine):
    """Writes the network's file and compares what the engine makes of it."""
    from keras_meduda.run.exchange import write_graph

    def check(unfinished):
        if lacking := _lacking(unfinished, network):
            raise _Unfit(
                f"engine={engine!r}: it lacks operations of {lacking}; expected another layer, or "
                "engine='tensorflow'."
            )
        print(f"engine {engine}: {_compared(network, _session(engine, unfinished), shape, task)}")

    try:
        write_graph(network, None, path, check)
    except (_Unfit, ImportError, OSError):
        raise
    except Exception as error:  # of the converter, or of the engine that loads what it gave
        raise _Unfit(
            f"engine={engine!r} cannot load this network; expected engine='tensorflow'. "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _lacking(path, network):
    """The operations that ONNX does not have, each with its layer, as words; empty if none."""
    import onnx

    names = sorted((layer.name for layer in network._flatten_layers(include_self=False)), key=len)
    lacking = {}
    for node in onnx.load(path).graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            layer = next((name for name in reversed(names) if name in node.name), node.name)
            lacking.setdefault(layer, []).append(node.op_type)
    return "; ".join(f"layer {layer!r} ({', '.join(ops)})" for layer, ops in lacking.items())


def _remove_outdated(path, engine):
    """Removes graphs of a network that has changed, and what a killed process has left."""
    for old in path.parent.glob(f"{engine}-*.onnx"):
        if old != path and (CHANGED in old.name) == (CHANGED in path.name):
            old.unlink(missing_ok=True)
    for unfinished in path.parent.glob(".*.onnx"):
        if time.time() - unfinished.stat().st_mtime > ABANDONED:
            unfinished.unlink(missing_ok=True)


def _writable(places):
    """The first folder that can be written."""
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise ValueError(f"{place}: cannot be written; set XDG_CACHE_HOME to a folder that can.")


class _Unfit(ValueError):
    """A network that an engine cannot compute."""


def _compared(network, logits, shape, task):
    """How far the masks of a random input are from TensorFlow's, as a sentence."""
    from keras_meduda import losses

    x = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype("float32")
    expected, found = (
        np.asarray(losses.probabilities(y, task.overlapping))
        for y in (network(x, training=False)["logits"], logits(x))
    )
    differ = (task.masks(expected) != task.masks(found)).any(axis=-1)
    if task.overlapping:
        margin = np.abs(expected - task.threshold).min(axis=-1)
    else:
        margin = np.diff(np.sort(expected, axis=-1)[..., -2:])[..., 0]
    if far := np.count_nonzero(differ & (margin > NEAR)):
        raise _Unfit(
            f"{far} of {differ.size} pixels of a random image are in another class than in "
            f"TensorFlow, more than {NEAR} from the threshold; expected engine='tensorflow'."
        )
    return (
        f"masks of a random image are TensorFlow's but for {np.count_nonzero(differ)} of "
        f"{differ.size} pixels, within {NEAR} of the threshold"
    )


def _cache_folder():
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "keras_meduda" / "engines"


def _session(engine, path):
    """The function that an engine makes of a file."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()  # its threads leave the cores to others in between
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        return lambda x: session.run(None, {"image": np.asarray(x, "float32")})[0]
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # where it has bfloat16 it would take that
    compiled = openvino.Core().compile_model(str(path), "CPU", exact)
    return lambda x: compiled(np.asarray(x, "float32"))[0]
