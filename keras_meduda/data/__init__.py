"""Data: case tables, files, intensity and geometry, training batches, phantoms."""

from keras_meduda import modules_of

__getattr__ = modules_of(__name__)
