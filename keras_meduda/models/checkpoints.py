"""The weights a network begins with: from a file that fits, or none of them."""

import hashlib
import itertools
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_meduda.models import encoders, torch_weights


def begin(network, weights, backbone=None, transfer=encoders.transfer):
    """Sets the weights that the argument `weights` of a builder names, all of them or none.

    Args:
        network: a `keras.Model`, random as yet.
        weights: `None` leaves it so; `"imagenet"` downloads the encoder's weights; a path is that
            of a file of the encoder in keras.applications' form (without its top; `.weights.h5`,
            `.keras`, or the `.h5` that Keras downloads) or of whatever `load_checkpoint` takes.
        backbone: name of the network's encoder, where it has one.
        transfer: copies a keras.applications network into `network`.

    Returns:
        The network; `network.start` says which weights it begins with: their name and the SHA-256
        of their file, or of ImageNet's arrays, whose file Keras keeps; `None` where they are
        random.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another network, whose first weights that do not fit are named, or a
            damaged one; `"imagenet"` without a backbone.
        ConnectionError: ImageNet's weights cannot be downloaded.
    """
    network.start = None
    if weights is None:
        return network
    if weights == "imagenet":
        if not backbone:
            raise ValueError(
                "received weights='imagenet', expected backbone= as well, one of "
                f"{', '.join(encoders.BACKBONES)}"
            )
        original = encoders.application(backbone, "imagenet")
        transfer(network, original)
        digest = hashlib.sha256(b"".join(w.tobytes() for w in original.get_weights())).hexdigest()
        network.start = (
            f"imagenet, {backbone} of Keras {keras.__version__}, SHA-256 of its arrays "
            f"{digest[:12]}…"
        )
        return network
    try:
        load_checkpoint(network, weights)
    except ValueError as of_network:
        if not backbone:
            raise
        original = encoders.application(backbone)
        try:
            load_checkpoint(original, weights)
        except ValueError as of_encoder:
            if str(of_encoder) == str(of_network):  # no weights at all
                raise
            raise ValueError(f"{of_encoder}\n{of_network}") from None
        transfer(network, original)
        network.start = original.start
    return network


def load_checkpoint(network, path) -> None:
    """Sets all weights of a network from a file, or none of them.

    `network.start` then says which they are: the name of the file and its SHA-256.

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
    path = _file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    _load(network, path)
    network.start = f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _load(network, path):
    """Sets the weights of a network from a file that is there."""
    if path.suffix not in (".keras", ".h5"):
        state = torch_weights.read(path)
        try:
            torch_weights.load_torch_weights(network, state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return
    if _is_legacy(path):
        _load_legacy(network, path)
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


def _file(path):
    """The file itself, of a run folder that of its network."""
    return Path(path) / "network.keras" if Path(path).is_dir() else Path(path)


def _is_legacy(path):
    """Whether the file lists each layer's weights, as those that Keras downloads do."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path) as file:
            return bool({"layer_names", "model_weights"} & {*file.attrs, *file})
    except OSError as error:
        raise _damaged(path, error) from error


def _load_legacy(network, path):
    """Sets all weights from such a file, whose layers come in the network's order."""
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        given = [
            (name, group[layer][name][()])
            for layer in np.asarray(group.attrs["layer_names"]).astype(str)
            for name in np.asarray(group[layer].attrs["weight_names"]).astype(str)
        ]
    weights = [weight for layer in network.layers for weight in layer.weights]
    found = [(name, value.shape) for name, value in given]
    wanted = [(weight.path, tuple(weight.shape)) for weight in weights]
    nothing = "nothing", "nothing"
    lines = [
        f"{other[0] if own is nothing else own[0]}: received {other[1]}, expected {own[1]}"
        for own, other in itertools.zip_longest(wanted, found, fillvalue=nothing)
        if own[1] != other[1]
    ]
    if lines:
        raise ValueError(f"{path}: {_listed(network, lines)}")
    for weight, (_, value) in zip(weights, given, strict=True):
        weight.assign(value)


def _listed(network, lines):
    return (
        f"{len(lines)} of its weights do not fit '{network.name}', which stays as it is:\n  "
        + "\n  ".join(lines[:5])
    )


def _damaged(path, error):
    return ValueError(
        f"{path}: expected weights that Keras saved, but {error}; a file whose download broke off "
        "has to be fetched again."
    )


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
        for key in wrong
    ]
    return _listed(network, lines)


def _shapes(file, path):
    """Shape of every weight in a Keras weights file."""
    try:
        return _visit(file, lambda entry: entry.shape)
    except OSError as error:
        raise _damaged(path, error) from error


def _visit(file, read):
    """What `read` makes of every array of an HDF5 file, by its name there."""
    values = {}

    def visit(name, entry):
        if isinstance(entry, h5py.Dataset):
            values[name] = read(entry)

    with h5py.File(file) as arrays:
        arrays.visititems(visit)
    return values
