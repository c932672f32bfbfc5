"""Labelled volumes of one or two domains: which train, choose and are tested, and their scores."""

import pandas as pd

from keras_meduda.data import catalog
from keras_meduda.data.cases import read_cases
from keras_meduda.data.checks import checked
from keras_meduda.data.io import DataError, Problem, is_volume
from keras_meduda.data.phantoms import drawn, write_brain
from keras_meduda.data.splits import in_folds, in_three, unseen
from keras_meduda.experiment.one_domain import task_of
from keras_meduda.run import settings_of


def check(flags) -> None:
    """What can be said of the flags before a file is read.

    Raises:
        ValueError: flags that contradict each other.
        FileNotFoundError: no run to vote with.
    """
    if bool(flags.root) != bool(flags.dataset) or flags.root and flags.cases:
        raise ValueError("Expected --dataset with --root, or --cases, or none of them (phantoms).")
    if flags.train_domain and flags.train_domain == flags.test_domain:
        raise ValueError(f"--source-domain and --target-domain are both {flags.test_domain!r}.")
    if flags.classes and flags.lesion:
        raise ValueError("--lesion is the older form of --classes; expected one of them.")
    if (flags.classes or flags.lesion) and not flags.cases:
        raise ValueError("--classes is for --cases; a data set has its own.")
    if (flags.transfer == "none") != (flags.init is None):
        raise ValueError(
            f"--transfer {flags.transfer} with --init {flags.init}: a transfer needs weights to "
            "start from, and weights a transfer, partial or full."
        )
    for run in flags.vote:
        settings_of(run)
    if flags.moving_statistics and flags.transfer != "partial":
        raise ValueError("--moving-statistics is of --transfer partial: nothing else is frozen.")
    if not set(flags.flips) <= set("XYZ"):
        raise ValueError(f"--flips {flags.flips}: expected letters out of XYZ.")


def read(flags):
    """Labelled cases in the parts train, val and test, those of the other domain, and the task.

    No case of the other domain trains, and no group that trains or chooses is tested.
    """
    home, away = flags.train_domain, flags.test_domain
    if flags.dataset:
        cases, task = getattr(catalog, flags.dataset)(flags.root)
    else:
        table = flags.cases
        if not table:
            home, away = (home, away) if home or away else ("t2", "flair")
            size = (16, 20, 12) if flags.smoke else (40, 44, 32)
            table = drawn(write_brain, flags.out, 12, size, 0)
        cases, values = read_cases(table), ",".join(map(str, flags.lesion or (1,)))
        task = task_of(flags.classes or (f"lesion={values}",), cases, flags.tolerance)
    domains = set(cases["domain"])
    if unknown := {home, away} - {None, *domains}:
        raise ValueError(f"no case of domain {sorted(unknown)}; there are {sorted(domains)}.")
    if flat := [cell for cell in cases["image"] if not is_volume(cell)]:
        expected = "NIfTI, NRRD, MetaImage or a DICOM series"
        raise DataError(*(Problem(cell, "no volume", expected) for cell in flat))
    labelled = cases[cases["mask"] != ""]
    if lost := len(cases) - len(labelled):
        print(f"{lost} of {len(cases)} cases have no mask and are left out")
    other = labelled["domain"] == away
    own, other = labelled[labelled["domain"] == home if home else ~other], labelled[other]
    own = in_three(in_folds(own, flags.folds, flags.fold) if flags.folds else own)
    learnt = own[own["split"] != "test"]
    own = pd.concat([learnt, unseen(own[own["split"] == "test"], learnt)])
    other = unseen(other, learnt) if away else other
    checked(pd.concat([own, other]), task, channels=1, nan_background=flags.nan_background)
    return own, other, task


def as_the_mouse_study(run, cases, frame, folder):
    """One line a class in which a mask is empty: means as the mouse study's code has them.

    Two empty masks, as of a sham animal, score a Dice of 0, and a distance to an empty mask is left
    out; `km.evaluate` gives 1, and the image's diagonal.
    """
    for label, rows in frame.groupby("class", sort=False):
        empty = rows[["prediction_empty", "reference_empty"]]
        if empty.any(axis=None):
            dice = rows["dice"].mask(empty.all(axis=1), 0.0).mean()
            hd95 = rows["hd95"].mask(empty.any(axis=1)).mean()
            yield (
                f"{label}, as the mouse study counts (two empty masks 0, distances to an empty one "
                f"left out): Dice {dice:.3f}, HD95 {hd95:.3f} mm"
            )
