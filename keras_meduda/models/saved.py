"""Networks out of Keras files, also of files from before a layer of this library existed."""

import json
import tempfile
import zipfile
from pathlib import Path

import keras

from keras_meduda.models import blocks  # registers the layer that files name

_OURS = {
    "module": blocks.BatchNormalization.__module__,
    "class_name": "BatchNormalization",
    "registered_name": keras.saving.get_registered_name(blocks.BatchNormalization),
}


def load_network(path) -> keras.Model:
    """The network in a `.keras` file, whichever backend it was saved on.

    Keras' own batch normalisation, as older files have it, becomes that of this library: with
    `synchronized=True` it does not load on JAX.

    Args:
        path: the file.

    Returns:
        The network, not compiled.

    Example:
        >>> import keras
        >>> path = getfixture("tmp_path") / "network.keras"
        >>> x = keras.Input((4,))
        >>> keras.Model(x, keras.layers.BatchNormalization()(x)).save(path)
        >>> type(load_network(path).layers[-1]).__module__
        'keras_meduda.models.blocks'
    """
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
        if not _renewed(config):
            return keras.saving.load_model(path, compile=False)
        with tempfile.TemporaryDirectory() as folder:
            renewed = Path(folder) / "network.keras"
            with zipfile.ZipFile(renewed, "w") as copy:
                for name in file.namelist():
                    data = json.dumps(config) if name == "config.json" else file.read(name)
                    copy.writestr(name, data)
            return keras.saving.load_model(renewed, compile=False)


def _renewed(config):
    """Puts this library's layer in the place of Keras' wherever a configuration names it."""
    if isinstance(config, list):
        return any([_renewed(part) for part in config])
    if not isinstance(config, dict):
        return False
    old = (config.get("module"), config.get("class_name")) == ("keras.layers", "BatchNormalization")
    if old:
        config.update(_OURS)
    return any([old, *map(_renewed, config.values())])
