"""The weights a network begins with: from a file that fits, or none of them."""

import tempfile
import zipfile
from pathlib import Path

import h5py
import keras

from keras_meduda.models import torch_weights


def load_checkpoint(network, path) -> None:
    """Sets all weights of a network from a file, or none of them.

    Args:
        network: a `keras.Model`.
        path: a `.keras` or `.weights.h5` file of the same architecture, a run folder, or a PyTorch
            state dict of the original release (`.pth`, `.pt`, `.npz`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or one of another architecture; the first weights that do not
            fit are listed with the shapes received and expected.

    Example:
        >>> import keras_meduda as km
        >>> a, b = (km.models.AERUNet((16, 16, 1), 1, filters=(4, 8)) for _ in range(2))
        >>> path = getfixture("tmp_path") / "a.weights.h5"
        >>> a.save_weights(path)
        >>> load_checkpoint(b, path)
    """
    path = Path(path) / "network.keras" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    if path.suffix not in (".keras", ".h5"):
        state = torch_weights.read(path)
        try:
            torch_weights.load_torch_weights(network, state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return
    with tempfile.TemporaryDirectory() as folder:
        received, expected = Path(folder, "received.weights.h5"), Path(folder, "own.weights.h5")
        network.save_weights(expected)
        if path.suffix == ".keras" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if "model.weights.h5" not in archive.namelist():
                    raise ValueError(
                        f"{path}: expected a network that Keras saved, with model.weights.h5 in "
                        f"it, found {', '.join(archive.namelist()[:5]) or 'nothing'}."
                    )
                received.write_bytes(archive.read("model.weights.h5"))
        else:
            received.write_bytes(path.read_bytes())
        found, wanted = _shapes(received, path), _shapes(expected, path)
        if found != wanted:
            raise ValueError(f"{path}: {_mismatches(network, found, wanted, folder)}")
        network.load_weights(received)


def _mismatches(network, found, wanted, folder):
    """What of a checkpoint does not fit, in the order and by the names of the network's layers."""
    twin = keras.models.clone_model(network)  # whose weights hold their number, to tell the names
    for number, weight in enumerate(twin.weights):
        weight.assign(keras.ops.full(weight.shape, number, weight.dtype))
    numbered = Path(folder, "numbered.weights.h5")
    twin.save_weights(numbered)
    numbers = _visit(numbered, lambda entry: int(entry[()].flat[0]) if entry.size else -1)
    paths = {key: network.weights[n].path for key, n in numbers.items() if n >= 0}
    wrong = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    wrong.sort(key=lambda key: (numbers.get(key, len(numbers)), key))
    lines = [
        f"{paths.get(key, key)}: received {found.get(key, 'nothing')}, "
        f"expected {wanted.get(key, 'nothing')}"
        for key in wrong[:5]
    ]
    return (
        f"{len(wrong)} of its weights do not fit '{network.name}', which stays as it is:\n  "
        + "\n  ".join(lines)
    )


def _shapes(file, path):
    """Shape of every weight in a Keras weights file."""
    try:
        return _visit(file, lambda entry: entry.shape)
    except OSError as error:
        raise ValueError(f"{path}: expected weights that Keras saved, but {error}") from error


def _visit(file, read):
    """What `read` makes of every array of an HDF5 file, by its name there."""
    values = {}

    def visit(name, entry):
        if isinstance(entry, h5py.Dataset):
            values[name] = read(entry)

    with h5py.File(file) as arrays:
        arrays.visititems(visit)
    return values
