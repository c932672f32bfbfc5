"""Few cases of a target: how many images say something, and what a few labels must have."""

import os

import numpy as np
import pandas as pd

from keras_meduda.data.cases import require_masks
from keras_meduda.data.io import read_mask
from keras_meduda.task import Task

FEWEST = 3  # patients with labels, of whom each is left out once
FEWEST_IMAGES = 8  # of the target, below which nothing is decided


def check_few(cases: pd.DataFrame, task: Task, test: pd.DataFrame | None = None) -> None:
    """Refuses few labels that cannot be used, before anything is trained.

    Args:
        cases: the few cases.
        task: what is segmented.
        test: the cases that a run will be tested on; those without a mask are never scored and do
            not count. Default none.

    Raises:
        ValueError: as `few` has them.
    """
    require_masks("few", cases)
    if test is not None:
        test = test[test["mask"] != ""]
        files, groups = set(map(os.path.realpath, test["image"])), set(test["group"])
        shared = [
            row.case
            for row in cases.itertuples()
            if os.path.realpath(row.image) in files or row.group in groups
        ]
        if shared:
            raise ValueError(
                f"few: cases {shared} are of patients of the test part; a score on patients whose "
                "labels were used would be too good. Take others."
            )
    if (count := cases["group"].nunique()) < FEWEST:
        raise ValueError(f"few: cases of {count} patients; expected {FEWEST} or more, better 5.")
    there = np.zeros(len(task.classes), bool)
    for row in cases.itertuples():
        masks = task.one_hot(read_mask(row.mask, task.of(row)))[..., -len(task.classes) :]
        there |= masks.any(axis=tuple(range(masks.ndim - 1)))
    if missing := [name for name, found in zip(task.classes, there, strict=True) if not found]:
        raise ValueError(f"few: no mask has the class {missing}; expected each class in some case.")
