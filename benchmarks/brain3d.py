"""Brain tumours in volumes: an AERUNet without masks, taught by slices, against one with masks.

MEDUDA_DATA=… python benchmarks/brain3d.py          (completes brain3d.csv, then brain3d.md)
MEDUDA_DATA=… python benchmarks/brain3d.py teacher  (only rows with these words)
MEDUDA_DATA=… python benchmarks/brain3d.py --page   (writes brain3d.md from brain3d.csv)

FLAIR of 12 subjects at 2 mm, whole tumours; fold 1, four subjects, is scored and the eight others
train. Boxes lie around the masks, each piece of a tumour its own, and every edge is moved by up to
3 voxels, a tenth of a usual tumour. GrabCut is shown each slice with 8 copies of its box, moved by
up to a tenth. AERUNet with filters 8…64 learns from 2 patches of 48³ a step, for 1,000 steps, from
random weights, and keeps the last ones: from GrabCut's masks, or from the real ones (oracle).
"""

from dataclasses import replace
from functools import partial

import pandas as pd
from shift_cases import BRAIN, contrasts
from tables import RUNS, main, markdown, mean_scores, read, spread, timed, trained

import keras_meduda as km
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.teaching import teach
from keras_meduda.recipes import meddistill

WORK = RUNS / "brain3d_benchmark"
FLAGS = meddistill.Flags(**BRAIN, jitter=3, draws=8, oracle=True)


def volumes():
    """The subjects of fold 1 are tested, and no mask of the others is seen but by the oracle."""
    data = contrasts("flair", "flair", 1)
    parts = {name: data.parts[name] for name in ("target", "oracle")}
    test = data.tests["target, test"]
    task, prompted = replace(data.task, overlapping=True), pd.concat([parts["oracle"], test])
    return Data(task, parts, {"test": test}, "FLAIR of 12 subjects", prompted=prompted)


def targets(data):
    """GrabCut's table of targets, in a process of its own."""
    return teach(FLAGS, data, Options(out=WORK), {}, chief=True)


def taught():
    """How good the teacher's own masks of the test volumes are, and the minutes for all of them."""
    data = volumes()
    path, minutes = timed(WORK / "teacher", lambda: targets(data))
    return mean_scores(evaluate_teacher(path, data.tests["test"], data.task), "mm"), minutes


def scored(method, seed):
    """Scores of the student or of the oracle, and the minutes of its training."""
    data = volumes()
    recipe = replace(meddistill.recipe(FLAGS, data), teacher=lambda *_: targets(data))
    run, minutes = trained(recipe, data, method, WORK, seed)
    return mean_scores(km.evaluate(run, data.tests["test"], data.task), "mm"), minutes


def wanted():
    """Row sets in the order in which they are made; a student's source is its teacher."""
    where = "brats_flair", "fold_1"
    yield ("grabcut", "boxes", *where, "teacher", "0"), taught
    yield ("aerunet", "grabcut", *where, "student", "0"), partial(scored, "student", 0)
    yield ("aerunet", "masks", *where, "oracle", "0"), partial(scored, "oracle", 0)


def page():
    """The lines of brain3d.md."""
    table = read("brain3d").astype({"value": float, "minutes": float})
    yield from (
        "# Brain tumours in volumes: a student without masks",
        "",
        "Made by `python benchmarks/brain3d.py` (2 cores, no GPU) from `brain3d.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].strip().replace("\n", " "),
        "",
        "Means over the four volumes of fold 1. HD95 is MedPy's. Minutes are wall time, with other "
        "jobs on the two cores; the teacher's are of all twelve volumes.",
        "",
        *markdown(("who", "taught by", "seeds", "Dice", "HD95, mm", "minutes"), cells(table)),
    )


def cells(table):
    """What the page says of the teacher, the student and the oracle, of those that are made."""
    keys = ["network", "source", "method"]
    for (network, source, method), rows in table.groupby(keys, sort=False):
        wide = rows.pivot_table(index="seed", columns="metric", values="value")
        yield (
            f"{method} ({network})",
            source,
            ", ".join(wide.index),
            spread(wide["dice"]),
            spread(wide["hd95"], 1),
            f"{rows['minutes'].mean():.0f}",
        )


if __name__ == "__main__":
    main("brain3d", wanted(), page)
