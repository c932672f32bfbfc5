"""Weights of the original PyTorch releases into these networks, without PyTorch.

A layer that has a counterpart in the original carries its name: `Conv2D(name="decoder.conv1")`
holds `decoder.conv1.weight` and `decoder.conv1.bias`. So no network needs a table of keys.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

_KEYS = {
    "kernel": "weight", "gamma": "weight", "alpha": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}
# Entries of released state dicts that no output depends on: a counter of batch norm, and a norm
# that MONAI's transformer block holds but never calls.
_UNUSED = ("num_batches_tracked", "norm_cross_attn.weight", "norm_cross_attn.bias")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def expected_shapes(network) -> dict:
    """The state dict that a network takes, as shapes in PyTorch's layout.

    Args:
        network: a `keras.Model` of this package.

    Returns:
        `{key: shape}`, in the order of the network's layers, without `num_batches_tracked`.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.UNet((32, 32, 1), channels=2, filters=(4, 8))
        >>> km.models.torch_weights.expected_shapes(network)["model.0.conv.unit0.conv.weight"]
        (4, 1, 3, 3)
    """
    return {key: _torch_shape(layer, variable) for key, layer, variable in _parameters(network)}


def load_torch_weights(network, weights) -> None:
    """Sets all weights of a network from a PyTorch state dict, or none of them.

    Convolutions (out, in, k…) become (k…, in, out), transposed ones (in, out, k…) become
    (k…, out, in), depthwise ones (c, 1, k…) become (k…, c, 1), dense layers are transposed.
    Counters are ignored, and so is a second name of a tensor that is also there under the
    expected one (PyTorch saves a shared module under each of its names).

    Args:
        network: a `keras.Model` of this package.
        weights: `{key: array}`, as `read` returns it.

    Raises:
        ValueError: a key is missing or unexpected, or a shape differs; nothing is changed then.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.UNet((32, 32, 1), channels=2, filters=(4, 8))
        >>> shapes = km.models.torch_weights.expected_shapes(network)
        >>> weights = {key: np.ones(shape) for key, shape in shapes.items()}
        >>> km.models.load_torch_weights(network, weights)
    """
    expected = expected_shapes(network)
    given = {key: np.asarray(value) for key, value in weights.items() if not key.endswith(_UNUSED)}
    absent = [f"{key}: {_received(given, key)}, expected shape {shape}"
              for key, shape in expected.items() if key not in given or given[key].shape != shape]
    known = [given[key] for key in expected if key in given]
    extra = [f"{key}: received shape {value.shape}, expected no such key"
             for key, value in given.items()
             if key not in expected and not any(np.array_equal(value, other) for other in known)]
    if absent or extra:
        raise ValueError(
            f"Received {len(given)} entries, network '{network.name}' expects {len(expected)}; "
            f"{len(absent)} do not fit and {len(extra)} are too many:\n  "
            + "\n  ".join([*absent[:5], *extra[:5]]))
    for key, layer, variable in _parameters(network):
        variable.assign(_to_keras(given[key], layer, variable))


def read(path) -> dict:
    """Reads a PyTorch state dict without PyTorch; its pickle may build tensors and nothing else.

    What stands beside the state dict in a training checkpoint is passed over: an object of another
    class becomes an empty stand-in, and none of its code is imported or run.

    Args:
        path: a file of `torch.save` (zip format of PyTorch ≥ 1.6, or the older stream) or of
            `numpy.savez`. `{"state_dict": …}`, `{"model_state_dict": …}` and `{"model": …}` are
            unwrapped, a leading `module.` is dropped from the keys.

    Returns:
        `{key: array}` in PyTorch's layout; bfloat16 comes as float32.

    Raises:
        ValueError: not such a file, or the state dict holds something else than tensors.

    Example:
        >>> path = getfixture("tmp_path") / "weights.npz"
        >>> np.savez(path, **{"module.conv.bias": np.ones(2)})
        >>> read(path)["conv.bias"].tolist()
        [1.0, 1.0]
    """
    with Path(path).open("rb") as file:
        try:
            arrays = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        except Exception as error:  # a damaged pickle raises nearly anything
            raise ValueError(f"{path}: expected a PyTorch state dict (torch.save) or .npz, but "
                             f"{error}") from error
    return {key.removeprefix("module."): array for key, array in arrays.items()}


def _received(given, key):
    return f"received shape {given[key].shape}" if key in given else "received nothing"


def _parameters(network):
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _parameters(layer)
            continue
        for variable in layer.weights:
            yield f"{layer.name}.{_KEYS.get(variable.name, variable.name)}", layer, variable


def _torch_shape(layer, variable):
    shape = tuple(variable.shape)
    if variable.name == "alpha":  # PReLU's slopes; in Keras with axes of length 1
        return (math.prod(shape),)
    if variable.name != "kernel":
        return shape
    return tuple(shape[axis] for axis in np.argsort(_permutation(layer, len(shape))).tolist())


def _to_keras(array, layer, variable):
    if variable.name == "kernel":
        return array.transpose(_permutation(layer, array.ndim))
    return array.reshape(variable.shape)


def _permutation(layer, rank):
    """The axes of PyTorch's kernel in Keras' order; PyTorch has the two channel axes in front."""
    depthwise = isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    return (*range(2, rank), 0, 1) if depthwise else (*range(2, rank), 1, 0)


class _Tensor(NamedTuple):
    storage: tuple  # (name of the storage class, key)
    offset: int
    size: tuple
    stride: tuple


_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}
_CLASSES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _Tensor(
        storage, offset, size, stride),
    **{("torch", name): name for name in _DTYPES},
}


class _StandIn:
    """An object of a class that is not read; takes what its pickle does to it, and does nothing."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def _ignore(self, *_, **__):
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = _ignore


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return _CLASSES.get((module, name)) or type(f"{module}.{name}", (_StandIn,), {})

    def persistent_load(self, identity):
        kind, storage_class, key, *_ = identity
        if kind != "storage" or storage_class not in _DTYPES:
            raise ValueError(f"it holds a {kind} of {storage_class}, expected a tensor's storage")
        return storage_class, key


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name.split("/")[-1] == "data.pkl"), None)
        if pickled is None:
            file.seek(0)
            return dict(np.load(file, allow_pickle=False))
        folder = pickled.removesuffix("data.pkl")
        big = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big"
        with archive.open(pickled) as stream:
            tensors = _state_dict(_Unpickler(stream).load())
        storages = {tensor.storage: None for tensor in tensors.values()}
        for storage in storages:
            storages[storage] = archive.read(f"{folder}data/{storage[1]}")
    return {key: _array(tensor, storages, big) for key, tensor in tensors.items()}


def _read_legacy(file):
    file.seek(0)
    magic, _protocol = _Unpickler(file).load(), _Unpickler(file).load()
    if magic != _LEGACY_MAGIC:
        raise ValueError(f"received magic number {magic!r}, expected {_LEGACY_MAGIC}")
    big = not _Unpickler(file).load()["little_endian"]
    unpickler = _LegacyUnpickler(file)
    tensors = _state_dict(unpickler.load())
    storages = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "big" if big else "little")
        storages[storage] = file.read(length * np.dtype(_DTYPES[storage[0]]).itemsize)
    return {key: _array(tensor, storages, big) for key, tensor in tensors.items()}


class _LegacyUnpickler(_Unpickler):
    """Remembers every storage: they follow in the file, each as long as its type says."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def persistent_load(self, identity):
        storage = super().persistent_load(identity)
        if identity[5] is not None:
            raise ValueError("it holds a view of a storage, as PyTorch < 0.4 wrote them")
        self.storages[storage[1]] = storage
        return storage


def _state_dict(tree):
    for wrapper in _WRAPPERS:
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}: save network.state_dict() alone")
    for key, value in tree.items():
        if not isinstance(value, _Tensor):
            raise ValueError(f"its entry {key!r} is a {type(value).__name__}, expected a tensor: "
                             "save network.state_dict() alone")
    return tree


def _array(tensor, storages, big):
    storage_class = tensor.storage[0]
    dtype = np.dtype(_DTYPES[storage_class]).newbyteorder(">" if big else "<")
    flat = np.frombuffer(storages[tensor.storage], dtype)
    steps = zip(tensor.size, tensor.stride, strict=True)
    last = -1 if 0 in tensor.size else tensor.offset + sum((n - 1) * step for n, step in steps)
    if min(tensor.offset, *tensor.size, *tensor.stride, 0) < 0 or last >= len(flat):
        raise ValueError(f"a tensor of size {tensor.size} reaches beyond its {len(flat)} values")
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset:], tensor.size, [step * dtype.itemsize for step in tensor.stride])
    if storage_class == "BFloat16Storage":  # the upper half of a float32
        return (view.astype("u4") << 16).view("f4")
    return view.astype(dtype.newbyteorder("="), order="C")
