"""ONNX and LiteRT: the network alone as one file, for runtimes other than TensorFlow."""

import contextlib
import functools
import os
from pathlib import Path

import keras
import numpy as np

from keras_meduda.data.io import replacing
from keras_meduda.models.stages import set_precision

FORMATS = {".onnx": "onnx", ".tflite": "litert"}


def export_network(run, path) -> Path:
    """Writes a network as an ONNX or LiteRT file, from its own input to class probabilities.

    It computes in float32, whatever the run was trained in. The preprocessing stays outside: the
    input is what `run.preprocessing` makes of an image, float32 `(batch, *size, channels)`, and the
    output float32 `(batch, *size, classes)` on that grid, background first where the classes
    exclude each other. Of a run that predicts by a sliding window it is one window. `km.export` has
    preprocessing and windows inside.

    Args:
        run: what `km.load` or `km.fit` returns.
        path: file to write, `.onnx` or `.tflite`.

    Returns:
        The path.

    Raises:
        ValueError: another ending, or a network that the file's runtime cannot load.
        ImportError: ONNX without the extra `export`.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: received the ending {path.suffix!r}, expected {list(FORMATS)}.")
    activation = "sigmoid" if run.task.overlapping else "softmax"
    probabilities = keras.layers.Activation(activation, dtype="float32", name="probabilities")
    write_graph(run.network, probabilities, path, functools.partial(_check_session, path=path))
    return path


def write_graph(network, head, path, check) -> None:
    """Writes a network from its input to what `head` makes of its logits, whole or not at all.

    Args:
        network: of which a copy in float32 is written.
        head: a layer, or `None` for the logits themselves.
        path: file to write, `.onnx` or `.tflite`.
        check: function of the unfinished file that raises what speaks against keeping it.

    Raises:
        ImportError: a package of the extra `export` is missing.
        ValueError: an operation that the format does not have.
    """
    copy = keras.models.clone_model(network)  # whose precision may be changed
    copy.set_weights(network.get_weights())
    set_precision(copy, "float32")
    logits = copy.output["logits"]
    served = keras.Model(copy.input, head(logits) if head else logits)
    image = keras.InputSpec("float32", copy.input.shape, name="image")
    try:
        with replacing(path) as unfinished, open(os.devnull, "w") as nowhere:
            with contextlib.redirect_stdout(nowhere):  # LiteRT lists its every operation
                served.export(unfinished, FORMATS[path.suffix], False, [image])
            check(unfinished)
    except ImportError as error:
        raise ImportError(f"{path}: {error}; pip install 'keras-meduda[export]'.") from error


def _check_session(unfinished, path):
    """Refuses a file that its own runtime, where that is installed, cannot load."""
    try:
        _session(unfinished)
    except ImportError:
        return
    except Exception as error:
        raise ValueError(
            f"{path}: the runtime of such files cannot load this network "
            f"({str(error).strip()[:300]}); expected the other of {list(FORMATS)}, or km.export."
        ) from error


def parity(run, path, images: int = 2) -> float:
    """Largest difference between the probabilities of an exported file and those of the network.

    Args:
        run: the run that was exported.
        path: the `.onnx` or `.tflite` file.
        images: number of random images in −1…1 that both see. Default 2.

    Raises:
        ImportError: the runtime (onnxruntime, ai-edge-litert) is not installed: the extra `export`.
    """
    from keras_meduda.losses import probabilities

    grid = (*run.preprocessing.size, run.preprocessing.channels)
    sides = zip(run.network.input.shape[1:], grid, strict=True)
    shape = (1, *(fixed or side for fixed, side in sides))
    call, rng, worst = _session(path), np.random.default_rng(0), 0.0
    for _ in range(images):
        x = rng.uniform(-1, 1, shape).astype("float32")
        logits = run.network(x, training=False)["logits"]
        expected = keras.ops.convert_to_numpy(probabilities(logits, run.task.overlapping))
        worst = max(worst, float(np.abs(call(x) - expected).max()))
    return worst


def _session(path):
    """A function from one batch to what the file's own runtime makes of it."""
    try:
        if Path(path).suffix == ".onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path))
            return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(f"{path}: {error}; pip install 'keras-meduda[export]'.") from error
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()  # says which operations are missing
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda x: next(iter(runner(**{name: x}).values()))
