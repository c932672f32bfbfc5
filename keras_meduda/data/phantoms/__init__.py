"""Phantoms, drawn for demonstrations and tests: optic discs, OCT scans, brains, nuclei."""

from keras_meduda.data.phantoms.brain import write_brain
from keras_meduda.data.phantoms.brain_slices import write_brain_slices
from keras_meduda.data.phantoms.cells import write_cells
from keras_meduda.data.phantoms.drawing import drawn
from keras_meduda.data.phantoms.fundus import camera, write_fundus
from keras_meduda.data.phantoms.oct import write_oct

__all__ = [
    "camera",
    "drawn",
    "write_brain",
    "write_brain_slices",
    "write_cells",
    "write_fundus",
    "write_oct",
]
