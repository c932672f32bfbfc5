"""Folder layouts of the public data sets, read as their owners ship them: a case table and a task.

Every reader takes a root folder and returns `(cases, task)`. Images without a mask are unlabelled
cases. A layout that cannot be recognised is an error that says what was looked for and what is
there.
"""

from keras_meduda.data.catalog.brain import brain_mouse, brats, mouse_mcao, ratlesnet
from keras_meduda.data.catalog.fundus import (
    FUNDUS,
    drishti_gs,
    fundus_rois,
    refuge,
    rim_one_dl,
    rim_one_r3,
)
from keras_meduda.data.catalog.general import cases_at, folders
from keras_meduda.data.catalog.oct import chiu

__all__ = [
    "FUNDUS",
    "brain_mouse",
    "brats",
    "cases_at",
    "chiu",
    "drishti_gs",
    "folders",
    "fundus_rois",
    "mouse_mcao",
    "ratlesnet",
    "refuge",
    "rim_one_dl",
    "rim_one_r3",
]
