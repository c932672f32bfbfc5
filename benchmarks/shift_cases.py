"""The shifts of the benchmark: two domains each, what takes which part, and the budget."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import fundus
import numpy as np
from tables import RUNS, data_root

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.cases import without_masks
from keras_meduda.data.phantoms import drawn, write_brain, write_cells, write_fundus
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.one_domain import task_of
from keras_meduda.experiment.shift import TIDY_FUNDUS

WORK = RUNS / "shifts_benchmark"
PICTURE = {"size": (128,), "steps": 400, "filters": (8, 16, 32, 64, 128)}
LARGE = {**PICTURE, "size": (512,), "patch": (256,), "batch_size": 4}
VOLUME = {"steps": 1000, "filters": (8, 16, 32, 64), "patch": (48, 48, 48)}
BRAIN = {**VOLUME, "size": (96, 112, 80), "fit": "crop_foreground"}


@dataclass(frozen=True)
class Shift:
    """A source and a target.

    Args:
        source: name of the domain with labels.
        target: name of the other.
        split: name of the target's split.
        data: function that gives the cases.
        flags: of the network's grid and the budget.
        choosing: whether recipes and thresholds are chosen on it; then it is no result.
    """

    source: str
    target: str
    split: str
    data: Callable[[], Data]
    flags: dict
    choosing: bool = False

    @property
    def gave_rule(self) -> bool:
        """Whether a rule of the guard or of the twins was thought of after a row was seen.

        The row of this shift, or of the one the other way.
        The rule was then chosen on choosing shifts (`shifts_notes.md`), but it is no clean test.
        """
        return {self.source, self.target} in ({"nuc_f256", "nuc_f360"}, {"acdc", "sunnybrook"})

    @property
    def name(self) -> str:
        """As the page has it."""
        fold = f", {self.split}" if self.split.startswith("fold") else ""
        return f"{self.source} → {self.target}{fold}"

    @property
    def rank(self) -> int:
        """2 of pictures, 3 of volumes."""
        return 3 if len(self.flags["size"]) == 3 else 2


def between(source, target, task):
    """What takes which part of two tables that are split."""
    train, oracle = (cases[cases["split"] == "train"] for cases in (source, target))
    parts = {"source": train, "target": without_masks(oracle), "oracle": oracle}
    tests = {"target, test": target, "source, test": source}
    tests = {name: cases[cases["split"] == "test"] for name, cases in tests.items()}
    return Data(task, parts, tests, "a shift of the benchmark")


def table(name, source, target, label):
    """Two domains of a table in the folder of shifts."""
    cases = km.read_cases(data_root() / "shifts" / name / "cases.csv")
    parts = [cases[cases["domain"] == domain] for domain in (source, target)]
    return between(*parts, task_of((label,), cases))


def halves(name, domain, label):
    """Two halves of one domain, by group: nothing shifts."""
    cases = km.read_cases(data_root() / "shifts" / name / "cases.csv")
    cases = cases[cases["domain"] == domain]
    first = cases["group"].isin(sorted(set(cases["group"]))[::2])
    return between(cases[first], cases[~first], task_of((label,), cases))


def contrasts(source, target, fold):
    """Two contrasts of the same subjects, a third of whom are tested."""
    cases = km.read_cases(data_root() / "shifts" / "brats_contrasts" / "cases.csv")
    cases["split"] = np.where(cases["fold"] == str(fold), "test", "train")
    parts = [cases[cases["domain"] == domain] for domain in (source, target)]
    return between(*parts, task_of(("tumour=1,2,4",), cases))


def mice():
    """Ventricles of wild type and transgenic mice."""
    cases, task = catalog.brain_mouse(data_root() / "brain_mouse")
    cases = cases.sort_values("case")
    cases["split"] = np.where(cases.groupby("domain").cumcount() < 3, "train", "test")
    wild, other = (cases[cases["domain"] == domain] for domain in ("wild_type", "transgenic"))
    held = np.arange(len(wild)) % 5 == 4
    return between(wild.assign(split=np.where(held, "test", "train")), other, task)


def discs(source, target):
    """Two cameras of photographs of the eye, each with its own test part."""
    (labelled, task), (other, _) = fundus.domain(source), fundus.domain(target)
    return between(labelled, other, task)


def phantoms(write, source, target, classes, *settings):
    """Two domains of drawn images."""
    cases = km.read_cases(drawn(write, WORK, *settings, 0))
    parts = [cases[cases["domain"] == domain] for domain in (source, target)]
    return between(*parts, task_of(classes, cases))


def both_ways(name, first, second, label, flags):
    """A table's two domains in each direction."""
    for pair in ((first, second), (second, first)):
        yield Shift(*pair, "subject", partial(table, name, *pair, label), flags)


def brain_contrasts(source, target):
    """Three folds, the first for choosing."""
    for fold in range(3):
        names = f"brats_{source}", f"brats_{target}", f"fold_{fold}"
        yield Shift(*names, partial(contrasts, source, target, fold), BRAIN, choosing=fold == 0)


def nothing(name, domain, label):
    """Halves of one domain."""
    names = f"{domain}_half_a", f"{domain}_half_b", "subject"
    return Shift(*names, partial(halves, name, domain, label), PICTURE, choosing=True)


SHIFTS = (
    *both_ways("nuclei", "nuc_f256", "nuc_f360", "nucleus=1", PICTURE),
    *both_ways("lungs", "cxr_child", "cxr_adult", "lung=1", PICTURE),
    *both_ways("left_ventricle", "acdc", "sunnybrook", "ventricle=1", PICTURE),
    *(
        Shift(*pair, split, partial(discs, *pair), PICTURE, pair[1] == "refuge_camera")
        for pair, split in fundus.SHIFTS.items()
    ),
    nothing("left_ventricle", "acdc", "ventricle=1"),
    nothing("lungs", "cxr_child", "lung=1"),
    Shift(
        "fundus_phantom_a", "fundus_phantom_b", "phantoms",
        partial(phantoms, write_fundus, "camera_a", "camera_b", TIDY_FUNDUS, 72, 256),
        PICTURE, choosing=True,
    ),
    *(
        Shift(
            f"cell_phantom_{one[-1]}", f"cell_phantom_{other[-1]}", "phantoms",
            partial(phantoms, write_cells, one, other, ("nucleus=255",), 120, 128),
            PICTURE, choosing=True,
        )
        for one, other in (("microscope_a", "microscope_b"), ("microscope_b", "microscope_a"))
    ),
    *both_ways("vessels", "drive", "chase", "vessel=1", LARGE),
    *brain_contrasts("flair", "t2"),
    *brain_contrasts("t2", "flair"),
    *brain_contrasts("t1", "t2"),
    Shift(
        "brain_mouse_wild_type", "brain_mouse_transgenic", "subject", mice,
        {**VOLUME, "size": (112, 128, 80)},
    ),
    Shift(
        "la_half_a", "la_half_b", "subject",
        partial(table, "left_atrium_null", "half_a", "half_b", "atrium=1"),
        {**VOLUME, "size": (112, 80, 48)}, choosing=True,
    ),
    *(
        Shift(
            f"brain_phantom_{source}", f"brain_phantom_{target}", "phantoms",
            partial(phantoms, write_brain, source, target, ("tumour=1",), 24, (64, 72, 56)),
            {**VOLUME, "size": (64, 72, 56)}, choosing=True,
        )
        for source, target in (("flair", "t2"), ("t2", "flair"))
    ),
)  # fmt: skip
