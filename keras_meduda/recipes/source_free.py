"""Source-free adaptation: a finished run and unlabelled images of another scanner, nothing else.

Preprocessing, window and the classes' shares of the image come from the run folder. The cases that
tested the run, if they are still in their places, or those of --judge decide how far the adaptation
goes; no image of the source trains. Papers: the class-ratio prior of Bateson et al. (Medical Image
Analysis 2022), a mean teacher (Tarvainen and Valpola, 2017).

Time on 2 cores: about as long as the run's own training with as many steps. Score: none yet; see
benchmarks/shifts.md once its rows are made.

meduda adapt --run runs/zeiss --images canon/ --out runs/canon
meduda adapt --run runs/zeiss --images cases.csv --out runs/canon      (scores its part test)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from keras_meduda.experiment.options import Count, Existing, Options, Positive


@dataclass(frozen=True, kw_only=True)
class Flags(Options):
    """Adaptation of a finished run to unlabelled images."""

    run: Existing
    """Run folder whose network is adapted."""
    images: Annotated[Existing, tyro.conf.arg(aliases=("--cases",))]
    """Images of the target: a folder, or a case table (.csv)."""
    out: Path
    """Run folder of the adapted network."""
    judge: Existing | None = None
    """Case table (CSV) of labelled cases of the run's own scanner, none of which trained it: they
    decide how far the adaptation goes. Default: those that tested the run, if their files are
    there; without any, nothing is decided."""
    few: Existing | None = None
    """Case table (CSV) of 5 to 10 labelled target cases of patients who are not tested. They train
    nothing but the last step, which is kept if it helps patients who were left out."""
    steps: Count = 300
    """Updates of the network."""
    batch_size: Count | None = None
    """Images in a batch; default: photographs 8, patches of volumes 2."""
    learning_rate: Positive = 2e-4
    """Of the first step; it falls to zero as a cosine."""


def data(flags):
    """The target's images; a part `test` of a table is scored where it has masks."""
    from keras_meduda.data.cases import read_cases, require_masks, without_masks
    from keras_meduda.data.catalog import cases_at
    from keras_meduda.data.checks import check_parts
    from keras_meduda.data.parts import seen
    from keras_meduda.data.splits import in_folds
    from keras_meduda.experiment.data import Data
    from keras_meduda.experiment.domains import check_few_cases, few_cases, warn_of_few_images
    from keras_meduda.run import settings_of

    task, preprocessing, _ = settings_of(flags.run)
    cases = cases_at(flags.images)
    if flags.folds:
        cases = in_folds(cases, flags.folds, flags.fold, flags.seed)
    tested = cases[cases["split"] == "test"]
    target = without_masks(cases[cases["split"] != "test"])
    few = few_cases(flags.few, cases)
    check_few_cases(flags.few, few, task, cases)
    judges = read_cases(flags.judge) if flags.judge else _tested(flags.run)
    if flags.judge:
        require_masks(f"--judge {flags.judge}", judges)
        if trained := list(seen(judges, flags.run, f"--run {flags.run}")):
            raise ValueError(f"--judge {flags.judge}: {' '.join(trained)} Take cases that did not.")
    tested = tested if len(tested) else target
    masks = (cases["split"] == "test") & (cases["mask"] != "")
    looked_at = [(cases, masks), (few, None), (judges, None)]
    check_parts(looked_at, task, nan_background=preprocessing.nan_background)
    if len(judges):  # else nothing is decided, whatever the number of images
        warn_of_few_images(len(target))
    described = f"{flags.images}, with the network of {flags.run}"
    tests = {"target, test": tested, "source, test": judges}
    tests = {heading: table for heading, table in tests.items() if len(table)}
    return Data(task, {"target": target, "few_target": few}, tests, described)


def _tested(run):
    """The labelled cases that the run was tested on, those whose files are there."""
    import os

    from keras_meduda.data.cases import case_table
    from keras_meduda.data.io import image_files, mask_files
    from keras_meduda.data.parts import read_parts

    cases = read_parts(run)
    if cases is None:
        return case_table([])
    cases = cases[cases["part"].isin(("source, test", "test")) & (cases["mask"] != "")]
    there = [
        all(map(os.path.exists, [*image_files(row.image), *(f for _, f in mask_files(row.mask))]))
        for row in cases.itertuples()
    ]
    return cases[there]


def recipe(flags, data):
    """One stage that starts from the run and sees the target's images alone."""
    import keras_meduda as km
    from keras_meduda.data.augment import Intensity, RandomPatch
    from keras_meduda.experiment.recipe import Recipe, Stage, adam
    from keras_meduda.experiment.shares import read_shares

    run = km.load(flags.run)
    shares = read_shares(run)

    def method(network, batches):
        return km.methods.SourceFree(network, data.task.overlapping, shares)

    batches = {"photometry": Intensity()} if run.preprocessing.zscored else {}
    if run.window:
        batches["patch"] = RandomPatch(run.window.size)
    stage = Stage(method, uses=("target",), start="source_only", compile=adam(flags.learning_rate))
    return Recipe(
        title=f"Source-free adaptation of {flags.run}",
        preprocessing=run.preprocessing,
        stages={"adapted": stage},
        steps=12 if flags.smoke else flags.steps,
        batch_size=flags.batch_size or (2 if len(run.preprocessing.size) == 3 else 8),
        batches=batches,
        window=run.window,
        given={"source_only": run},
    )
