"""The files of one run: settings, checkpoints, history and the network, whole or not at all."""

import contextlib
import csv
import errno
import json
import math
import os
import re
import shutil
import zipfile
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from keras_meduda.data.files import check_writable
from keras_meduda.data.io import replacing
from keras_meduda.run.decided import FEW, GUARDED, forget
from keras_meduda.run.extension import extension, follows_steps, in_words
from keras_meduda.task import Preprocessing, to_json

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Best:
    """The highest validation value so far, and how many have come since without a higher one."""

    value: float = -math.inf
    waited: int = 0

    def see(self, value) -> bool:
        """Takes one more value in; whether its weights are to be kept, those of a first NaN too."""
        higher = value > self.value
        self.value, self.waited = (value, 0) if higher else (self.value, self.waited + 1)
        return higher or self.value == -math.inf


class RunFolder:
    """The files of one run; everything is written whole or not at all.

    Of several workers one writes, all read. The one that writes holds the folder alone until the
    block ends that it is used in.
    """

    def __init__(self, path, resume, writes=True):
        self.path, self.checkpoints = path, path / "checkpoints"
        self.writes, self.rows, self.events, self.lock = writes, [], None, None
        if writes:
            check_writable(path, "--out")
            self.checkpoints.mkdir(exist_ok=True)
            self.lock = _locked(self.checkpoints)
            for unfinished in self.checkpoints.glob(".*"):  # of a process that was killed
                unfinished.unlink()
        if writes and not resume:
            for old in [
                *self.checkpoints.glob("step-*.npz"),
                path / "history.csv",
                path / "config.json",
                path / "network.keras",
                path / "best.keras",
                path / "confidence.json",
                path / "comparison.json",  # and what else is said of the network
                path / "report.html",
                path / "shares.json",
                path / "cases.csv",
            ]:
                old.unlink(missing_ok=True)
            shutil.rmtree(path / "evaluation", ignore_errors=True)
            forget(path, FEW, GUARDED)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def check_config(self, config, defaults):
        """Writes the settings, or compares them with those of the run that is there.

        More steps extend the run: what follows the number of steps may then be another.

        Args:
            config: the settings.
            defaults: of the method's settings: a run from before a setting existed has its default.
        """
        file = self.path / "config.json"
        config = json.loads(json.dumps(config))
        if file.exists():
            old = json.loads(file.read_text())
            if old.get("version", 1) > config["version"]:
                raise ValueError(
                    f"{self.path}: a run folder of version {old['version']}; this library goes on "
                    f"with up to {config['version']}. Choose another folder."
                )
            old["version"] = config["version"]
            old["settings"] = {**defaults, **old["settings"]}
            old["weights"] = config.get("weights")  # a name; "start" compares the weights
            old.setdefault("training", config["training"])  # of earlier builds nothing is known
            old["preprocessing"] = to_json(Preprocessing(**old["preprocessing"]))
            extended = old.pop("extended", [])
            if config["steps"] < old["steps"]:
                raise ValueError(
                    f"{self.path} holds a run of {old['steps']:,} steps; {config['steps']:,} are "
                    "fewer. Ask for as many or more, choose another folder, or start over with "
                    "resume=False (--no-resume)."
                )
            longer = config["steps"] > old["steps"]
            there, old, now = old, _flat(json.loads(json.dumps(old))), _flat(config)
            other = [k for k in {**now, **old} if old.get(k) != now.get(k)]
            if other := [k for k in other if not (longer and follows_steps(k))]:
                changes = "; ".join(f"{k}: {old.get(k)} there, {now.get(k)} now" for k in other)
                raise ValueError(
                    f"{self.path} holds a run with other settings ({changes}). Choose "
                    "another folder, or start over with resume=False (--no-resume)."
                )
            if longer:
                extended = [*extended, extension(self.path, there, config)]
                if self.writes:
                    print(f"{self.path}: {in_words(extended[-1])}")
                    self._unfinish(config["keep"])
            config |= {"extended": extended} if extended else {}
        if self.writes:
            with replacing(file) as unfinished:
                unfinished.write_text(json.dumps(config, indent=1))

    def _unfinish(self, keep):
        """Takes back what the end of a run that is extended has left: there is no network yet."""
        forget(self.path, FEW, GUARDED)
        (self.path / "confidence.json").unlink(missing_ok=True)
        network, best = self.path / "network.keras", self.path / "best.keras"
        if keep == "last":
            network.unlink(missing_ok=True)
        elif network.exists() and not best.exists():
            network.replace(best)

    def restore(self, method):
        """Takes the newest readable checkpoint over; returns (steps done, best validation)."""
        step, best = 0, Best()
        for file in sorted(self.checkpoints.glob("step-*.npz"), reverse=True):
            if (arrays := _read(file)) is None:
                continue
            best = Best(float(arrays.pop("best")), int(arrays.pop("waited")))
            _assign(method, arrays, file)
            step = int(method.step.numpy())
            break
        if self.writes:
            self._restore_history(step)
        return step, best

    def _restore_history(self, step):
        """Takes over what was recorded up to a step; what came after happens again."""
        history = self.path / "history.csv"
        if step and history.exists():
            with open(history, newline="", encoding="utf-8") as text:
                self.rows = [row for row in csv.DictReader(text) if int(row["step"]) <= step]
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        self.events = tf.summary.create_file_writer(str(self.path))
        for row in self.rows:
            self._event(row)

    def save(self, method, best):
        """Writes a checkpoint of every variable and keeps the two newest."""
        arrays = {name: variable.numpy() for name, variable in _variables(method).items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FloatingPointError(
                    f"step {int(method.step.numpy())}: {name} is not finite; the last "
                    f"good checkpoint in {self.checkpoints} stays."
                )
        if not self.writes:
            return
        with (
            self._full_disk_explained(),
            replacing(self.checkpoints / f"step-{int(method.step.numpy()):08d}.npz") as unfinished,
        ):
            np.savez(unfinished, best=best.value, waited=best.waited, **arrays)
            with open(unfinished, "rb") as file:  # on the disk before its name is, if power fails
                os.fsync(file.fileno())
        for old in sorted(self.checkpoints.glob("step-*.npz"))[:-2]:
            old.unlink()

    def save_network(self, network, name):
        """Writes the network as a Keras file, without a mark on layers that fine-tuning froze."""
        if not self.writes:
            return
        frozen = [layer for layer in network._flatten_layers() if not layer.trainable]
        for layer in frozen:  # Keras could not thaw them in a network that it has loaded
            layer.trainable = True
        try:
            with self._full_disk_explained(), replacing(self.path / name) as unfinished:
                network.save(unfinished)
        finally:
            for layer in frozen:
                layer.trainable = False

    def add_row(self, row):
        """One more row of history.csv and of the TensorBoard events; a value not taken is NaN."""
        if not self.writes:
            return
        self.rows.append(row)
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        with (
            self._full_disk_explained(),
            replacing(self.path / "history.csv") as unfinished,
            open(unfinished, "w", newline="", encoding="utf-8") as t,
        ):
            table = csv.DictWriter(t, names, restval="nan")
            table.writeheader()
            table.writerows(self.rows)
        self._event(row)

    @contextlib.contextmanager
    def _full_disk_explained(self):
        """Of a disk without room what is safe, and how to go on."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL and not re.search("No space left|errno = 28", str(error)):
                raise
            whole = sorted(self.checkpoints.glob("step-*.npz"))
            safe = "no checkpoint is there yet: the same command begins anew"
            if whole:
                size = 2 * whole[-1].stat().st_size / 1e6
                safe = (
                    f"{whole[-1]} is whole: once some {size:.0f} MB are free the same command goes "
                    f"on from step {int(whole[-1].stem.removeprefix('step-'))}"
                )
            raise OSError(errno.ENOSPC, f"no space left for {self.path}; {safe}") from error

    def _event(self, row):
        with self.events.as_default(step=int(row["step"])):
            for name, value in row.items():
                if name not in ("step", "ended") and not math.isnan(float(value)):
                    tf.summary.scalar(name, float(value))
        self.events.flush()


def _locked(checkpoints):
    """A descriptor that holds a run alone; the lock ends with its process, however that ends.

    Raises:
        ValueError: another training holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(checkpoints, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(
            f"{checkpoints.parent}: another training writes into this run folder; expected one at "
            "a time. Wait for its end, stop it, or choose another folder."
        ) from error
    except OSError:  # a file system without locks, as some in a network are
        pass
    return descriptor


def _variables(method):
    """Everything that a training changes, numbered in the order in which it was made."""
    owners = {"method": method.variables, "optimizer": method.optimizer.variables}
    if method.discriminators:
        owners["discriminator_optimizer"] = method.discriminator_optimizer.variables
    return {
        f"{owner}-{i:04d}": v
        for owner, variables in owners.items()
        for i, v in enumerate(variables)
    }


def _flat(config, prefix=""):
    """Nested settings as one dictionary, `{"data.source.files": …}`."""
    flat = {}
    for name, value in config.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat


def _read(file):
    """The arrays of a checkpoint; `None`, with a line that says why, of one that is damaged."""
    try:
        with np.load(file) as arrays:
            read = dict(arrays)
        if not {"best", "waited"} <= set(read):
            raise ValueError("no 'best' in it")
        return read
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        print(f"{file} is not readable ({error}); taking the one before it.")


def _assign(method, values, file):
    variables = _variables(method)
    if set(values) != set(variables):
        raise ValueError(
            f"{file} holds {len(values)} variables, this method has {len(variables)}: "
            "the run was made with other settings; choose another folder."
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(
                f"{file}: {name} has shape {values[name].shape}, expected "
                f"{tuple(variable.shape)}; choose another folder."
            )
    for name, variable in variables.items():
        variable.assign(values[name])
