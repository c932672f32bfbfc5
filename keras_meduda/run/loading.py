"""A finished training: the network and what belongs to it, loaded from its folder.

Nothing here loads TensorFlow before TensorFlow is to compute something: of a run whose network is
kept for another engine it is never loaded.
"""

import dataclasses
import functools
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_meduda.run import engines
from keras_meduda.run.bundle import unpacked
from keras_meduda.run.decided import chosen
from keras_meduda.run.sliding import WINDOW_PIXELS, SlidingWindow, sliding_window
from keras_meduda.task import Preprocessing, Task, probabilities

if TYPE_CHECKING:
    import keras

VERSION = 2  # of a run folder; 2: tasks of two data sets are one, the classes' shares are kept
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class _Later:
    """The network of a run folder that nobody has asked for yet."""

    run_dir: Path
    digest: str  # of its file


class _Network:
    """The attribute `network`, loaded when it is first asked for."""

    def __get__(self, run, owner=None):
        if run is None:
            raise AttributeError("network")  # so that it has no default
        network = vars(run)["network"]
        if isinstance(network, _Later):
            with unpacked(network.run_dir) as folder:
                network = vars(run)["network"] = _load_network(folder)
        return network

    def __set__(self, run, network):
        vars(run)["network"] = network


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running training: the network and what belongs to it."""

    path: Path
    network: "keras.Model" = _Network()
    task: Task
    preprocessing: Preprocessing
    window: SlidingWindow | None = None  # None: the network takes the whole image at once
    xla: bool = False  # whether predictions are compiled by XLA
    engine: str = "tensorflow"  # what computes predictions, one of `engines.ENGINES`

    @functools.cached_property
    def logits(self):
        """Compiled function from the network's input, or a window of it, to logits."""
        size, channels = self.preprocessing.size, self.preprocessing.channels
        if self.window:
            size = map(min, size, self.window.size)
        shape = (*size, channels)
        if self.engine != "tensorflow":
            return self._logits_of_engine(shape)
        import tensorflow as tf

        from keras_meduda.run.devices import shared_out

        network = shared_out(lambda x: self.network(x, training=False)["logits"], self.devices)
        signature = [tf.TensorSpec((None, *shape), "float32")]
        return tf.function(network, signature, jit_compile=self.xla)

    @functools.cached_property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices that predict together; XLA compiles for one, other engines too."""
        if self.engine != "tensorflow":
            return ("CPU",)
        from keras_meduda.run.devices import all_devices

        return all_devices()[: 1 if self.xla else None]

    def _logits_of_engine(self, shape):
        kept = vars(self)["network"]
        if isinstance(kept, _Later):
            name = kept.digest
        else:  # its weights may be others than those of the folder
            name = f"{engines.CHANGED}-{engines.digest(kept)}"
        return engines.logits_function(
            lambda: self.network, name, shape, self.task, self.engine, self.path
        )

    def in_window(self, window):
        """The same run with another window, its network not loaded for that."""
        return type(self)(**parts(self, type(self)) | {"window": window})

    def probabilities(self, x) -> np.ndarray:
        """Class probabilities of inputs of the network, `(batch, *size, channels)` both."""
        of_logits = probabilities
        if self.engine == "tensorflow":
            from keras_meduda.losses import probabilities as of_logits
        if not self.window:
            return np.asarray(of_logits(self.logits(x), self.task.overlapping))
        pixels = WINDOW_PIXELS["gpu" if "GPU" in self.devices[0] else "cpu"]
        y = sliding_window(self.logits, x, self.window, pixels, len(self.devices))
        for i in range(y.shape[1]):  # in place, slice by slice: a volume is held once
            y[:, i] = of_logits(y[:, i], self.task.overlapping)
        return y


def parts(run, kind=Run) -> dict:
    """The fields of a run by name, its network not loaded for that.

    Args:
        run: the run.
        kind: the class whose fields are wanted. Default `Run`.
    """
    return {field.name: vars(run)[field.name] for field in dataclasses.fields(kind)}


def check_run(caller, run):
    """Refuses what is no run.

    Raises:
        ValueError: what was received.
    """
    if not isinstance(run, Run):
        raise ValueError(f"{caller}: received {run!r} as run; expected what km.load(path) gives.")


def settings_of(run_dir) -> tuple[Task, Preprocessing, SlidingWindow | None]:
    """Task, preprocessing and window of a finished run, its network not loaded.

    Raises:
        FileNotFoundError: what is missing.
        ValueError: a damaged file.
    """
    with unpacked(run_dir) as folder:
        return _settings(_read(folder))


def load(
    run_dir,
    precision: str | None = None,
    xla: bool = False,
    engine: str = "tensorflow",
    trained: bool = False,
) -> Run:
    """The run in a folder: `run.network`, `run.task`, `run.preprocessing`.

    Args:
        run_dir: folder that `km.fit` left, or a file that `meduda bundle` has made of one.
        precision: what predictions compute in, `"float32"`, `"mixed_bfloat16"` (faster on GPUs and
            on processors that have it) or `"mixed_float16"`; the classifier stays float32. Default:
            as it was trained.
        xla: whether predictions are compiled by XLA, once for every size of batch; pays on a GPU.
            Default `False`.
        engine: what computes predictions, `"tensorflow"`, `"onnxruntime"` or `"openvino"`, in
            float32 the latter two, for which the network is written once into the run folder.
            Once it is there, TensorFlow is loaded only if `run.network` is asked for. Default
            `"tensorflow"`.
        trained: whether the network is the one that was trained, whatever the adaptation decided.
            Default `False`: the one that it decided for, see `chosen`.

    Raises:
        FileNotFoundError: the folder holds no finished run; the message says what is missing.
        ValueError: one of the two files is damaged, or an unknown precision or engine.
        ImportError: an engine that is not installed, and the extra that has it.
    """
    engines.check_engine(engine, precision)
    if precision not in (None, *POLICIES):
        raise ValueError(f"load: precision={precision!r}; expected one of {POLICIES}.")
    path = Path(run_dir) if trained else chosen(run_dir)
    with unpacked(path) as folder:
        config = _read(folder)
        if engine == "tensorflow":
            network = _load_network(folder, precision)
        else:
            network = _Later(path, engines.digest_of_file(folder / "network.keras"))
    return Run(path, network, *_settings(config), xla, engine)


def _read(path):
    """The settings of a run folder, whose network is looked at from outside."""
    for name in ("config.json", "network.keras"):
        if not (path / name).is_file():
            there = sorted(p.name for p in path.iterdir()) if path.is_dir() else "no such folder"
            raise FileNotFoundError(f"{path}: expected a run folder with {name}, found {there}.")
    try:
        config = json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'}: expected JSON, found {error}.") from None
    if (version := config.get("version", 1)) > VERSION:
        raise ValueError(
            f"{path}: a run folder of version {version}; this library reads up to {VERSION}. "
            "Install a newer keras_meduda."
        )
    if not zipfile.is_zipfile(path / "network.keras"):
        raise ValueError(f"{path / 'network.keras'}: expected a whole Keras file; it is damaged.")
    return config


def _settings(config):
    window = SlidingWindow(**config["window"]) if config.get("window") else None
    return Task(**config["task"]), Preprocessing(**config["preprocessing"]), window


def _load_network(folder, precision=None):
    """The network of a run folder."""
    from keras_meduda import models  # noqa: F401 (registers the layers that saved networks name)
    from keras_meduda.models.saved import load_network
    from keras_meduda.models.stages import set_precision

    network = load_network(folder / "network.keras")
    if precision:
        set_precision(network, precision)
    # what it began with, for what is trained from it
    network.start = json.loads((folder / "config.json").read_text()).get("weights")
    return network
