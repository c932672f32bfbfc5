"""Trained networks that come with the project: its folder `weights/`, a part of the wheel."""

import hashlib
import json
from pathlib import Path

from keras_meduda.run.loading import Run, load

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "released_weights"  # by a wheel
FOLDER = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "weights"


def weights(name: str, folder=FOLDER) -> Run:
    """A network of `weights/` with its task and preprocessing, its files checked by SHA-256.

    Args:
        name: an entry of `weights/manifest.json`.
        folder: another folder with such a manifest. Default the project's own.

    Returns:
        The run, as `km.load` gives it.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: no such name (the message lists those there are), or a file that is not the one
            that was released.

    Example:
        >>> import keras_meduda as km
        >>> km.weights("fundus_phantom").task.classes
        ('cup', 'disc')
    """
    folder = Path(folder)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest}: no such file; expected a folder with the released networks' manifest."
        )
    entries = json.loads(manifest.read_text())
    if name not in entries:
        raise ValueError(f"weights: received {name!r}, expected one of {sorted(entries)}.")
    for file, expected in entries[name]["sha256"].items():
        found = hashlib.sha256((folder / name / file).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(
                f"{folder / name / file}: SHA-256 {found[:12]}…, expected {expected[:12]}… of the "
                "manifest; fetch the file again."
            )
    return load(folder / name)
