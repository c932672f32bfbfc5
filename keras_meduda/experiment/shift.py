"""Flags and cases of an experiment on two domains: the source with labels, the target without."""

import os
import sys
from dataclasses import dataclass, replace
from typing import Literal

from keras_meduda.experiment.one_domain import DATASETS, of_dataset, of_domain, task_of
from keras_meduda.experiment.options import (
    Count,
    Existing,
    NotNegative,
    Options,
    Positive,
    StartFlags,
)

TIDY_FUNDUS = ("cup=255", "disc=128,255")


@dataclass(frozen=True, kw_only=True)
class ShiftFlags(Options):
    """Flags of an experiment on two domains; without any data flag it runs on phantoms."""

    cases: Existing | None = None
    """Case table (CSV: case, domain, split, group, image, mask) with both domains."""
    classes: tuple[str, ...] | None = None
    """Classes and their mask values, for --cases and folders; default: the tidy fundus form,
    cup=255 disc=128,255. A colour is written as cup=#ff0000."""
    tolerance: NotNegative = 0
    """Mask values up to so far from a declared one count as it, as in JPEG masks."""
    nan_background: bool = False
    """Take NaN in images for background, 0; else such images are refused."""
    source_domain: str | None = None
    """Domain with labels."""
    target_domain: str | None = None
    """Domain to adapt to; its labels, where there are any, serve the final evaluation alone."""
    source_dataset: DATASETS | None = None
    """Layout of --source-root, instead of a case table."""
    source_root: Existing | None = None
    """Folder of the labelled data set."""
    target_dataset: DATASETS | None = None
    """Layout of --target-root; may be left out for two domains of one data set."""
    target_root: Existing | None = None
    """Folder of the unlabelled data set."""
    steps: Count = 600
    """Updates of the network, in each stage."""
    learning_rate: Positive = 1e-3
    """Of the first step; it falls to zero as a cosine."""
    adapt_learning_rate: Positive = 5e-4
    """The same for the adaptation."""
    init: Existing | None = None
    """Run folder whose network is adapted, instead of training one on the source."""
    oracle: bool = False
    """Also train on the target's labels, as the upper end of the comparison."""
    augment_source: bool = False
    """Recolour source images, and give half of them the target's style, while adapting."""
    few: Existing | None = None
    """Case table (CSV) of 5 to 10 labelled target cases of patients who are not tested. They train
    nothing but the last step, which is kept if it helps patients who were left out."""

    def stages(self, alone, adapted) -> dict:
        """Source only (unless --init gives it), adapted, and the oracle on request.

        Args:
            alone: the stage that trains on labels alone.
            adapted: the stage that adapts.
        """
        return {
            **({} if self.init else {"source_only": alone}),
            "adapted": adapted,
            **({"oracle": replace(alone, uses=("oracle",))} if self.oracle else {}),
        }

    def settings(self, grid) -> dict:
        """What every recipe on two domains takes of its flags and its grid."""
        from keras_meduda.run import load

        return {
            "preprocessing": replace(grid.preprocessing, nan_background=self.nan_background),
            "steps": 12 if self.smoke else self.steps,
            "batch_size": self.batch_size or (2 if grid.volumes else 8),
            "batches": grid.batches,
            "window": grid.window,
            "given": {"source_only": load(self.init)} if self.init else {},
        }

    def styled_source(self, grid, twins=4) -> dict:
        """Settings of a stage that trains on the source in the target's style, if it shall."""
        from keras_meduda.data.augment import Intensity, Photometry

        if not self.augment_source:
            return {}
        colours = Intensity() if grid.preprocessing.zscored else Photometry()
        return {"source_styles": twins, "batches": {"source_photometry": colours}}


@dataclass(frozen=True, kw_only=True)
class GridFlags(StartFlags):
    """Flags of the network's start and grid, for recipes that take photographs and volumes."""

    size: tuple[Count, ...] = ()
    """The network's grid: pixels a side, 192 by default, or voxels from left to right, back to
    front and bottom to top, 144 176 160."""
    batch_size: Count | None = None
    """Of each domain: photographs, 8 by default, or patches, 2."""
    patch: tuple[Count, ...] | None = None
    """What the network sees at once; the rest is predicted by a sliding window. Default:
    photographs whole, volumes in patches of 64 64 64 voxels of the grid."""
    spacing: tuple[Positive, Positive, Positive] | None = None
    """Of volumes: voxels in mm to which they are resampled; default: the files' own."""
    fit: Literal["crop", "crop_foreground"] = "crop"
    """Of volumes larger than the grid: keep the middle, or what lies around all that is not 0."""

    def grid(self, data, needs, **picture):
        """The network's grid of the data; a backbone has photographs in the range −1…1.

        Args:
            data: as `read` gives them.
            needs: of the network, as `models.needs` has them.
            picture: arguments of `Preprocessing` for photographs.

        Raises:
            ValueError: flags of volumes with photographs, or sizes that cannot be.
        """
        import pandas as pd

        from keras_meduda.experiment.grids import are_volumes, picture_grid, volume_grid

        cases = pd.concat([*data.parts.values(), *data.tests.values()])
        if not are_volumes(cases):
            picture |= self.ranged
            if self.spacing or self.fit != "crop":
                raise ValueError("--spacing and --fit are for volumes; received pictures.")
            size, patch = self.size or 192, self.patch
            if self.smoke:
                size, patch = 64, 32 if patch else None
            return picture_grid(size, patch, **picture)
        drawn = not (self.cases or self.source_dataset)
        size = self.size or ((48, 48, 48) if drawn else (144, 176, 160))
        patch = self.patch or ((32, 32, 32) if drawn else (64, 64, 64))
        if self.smoke:
            size, patch = (32, 32, 32), (16, 16, 16)
        return volume_grid(
            cases, size=size, patch=patch, spacing=self.spacing, axes=needs.axes, fit=self.fit
        )


def discs(flags):
    """Drawn optic discs as seen by two cameras: what `read` takes in place of data."""
    from keras_meduda.data.phantoms import drawn, write_fundus

    table = drawn(write_fundus, flags.out, 12 if flags.smoke else 72, 256, flags.seed)
    return table, "camera_a", "camera_b", TIDY_FUNDUS


def brains(flags):
    """Drawn brains in two contrasts."""
    from keras_meduda.data.phantoms import drawn, write_brain

    count, size = (3, (24, 28, 20)) if flags.smoke else (24, (44, 48, 40))
    table = drawn(write_brain, flags.out, count, size, flags.seed)
    return table, "t2", "flair", ("tumour=1",)


def read(flags: ShiftFlags, draw):
    """The cases of the flags, with every file looked at.

    Args:
        flags: which cases, classes and seed.
        draw: function without arguments that gives `(case table, source domain, target domain,
            classes)` of phantoms, for flags that name no data.

    Raises:
        DataError: all that is wrong with the cases and their files, of both domains.
        ValueError: flags that name no data, half of them or data twice, or domains without cases.
    """
    import pandas as pd

    from keras_meduda.data.cases import without_masks
    from keras_meduda.data.checks import checked
    from keras_meduda.data.few import FEWEST_IMAGES
    from keras_meduda.data.io import DataError, is_volume
    from keras_meduda.experiment.data import Data

    source, target, task, described = _domains(flags, draw)
    source, target = _split(source, target, flags)
    source = _held_out(source, flags.seed)
    oracle = target[target["split"] == "train"] if flags.oracle else target.iloc[:0]
    if (oracle["mask"] == "").any():
        raise ValueError(
            "--oracle trains on the target's labels, but "
            f"{(oracle['mask'] == '').sum()} of its {len(oracle)} training cases have "
            "none. Leave the flag out."
        )
    if (count := (target["split"] == "train").sum()) < FEWEST_IMAGES:
        print(
            f"the target has {count} training images. Below {FEWEST_IMAGES} nothing can be said of "
            "a network adapted to them, so source only will be kept; meduda predict "
            "--adapt-statistics needs no training.",
            file=sys.stderr,
        )
    route = " → ".join(", ".join(cases["domain"].unique()) for cases in (source, target))
    data = Data(
        task=task,
        parts={
            "source": source[source["split"] == "train"],
            "target": without_masks(target[target["split"] == "train"]),
            "oracle": oracle,
            "few_target": _few(flags.few, target, task),
        },
        tests={
            "target, test": target[target["split"] == "test"],
            "source, test": source[source["split"] == "test"],
        },
        described=described or f"{flags.cases or 'phantoms of this library'}: {route}",
        route=route,
    )
    _check_parts(data, source, target)
    labelled = pd.concat([data.parts["source"], data.tests["source, test"]])
    trained = data.parts.get("oracle", data.parts["target"])
    others = pd.concat([trained, data.tests["target, test"]])
    channels, problems = 1 if is_volume(source["image"].iloc[0]) else 3, []
    looked_at = [(labelled, [True] * len(labelled)), (others, None)]
    if "few_target" in data.parts:
        looked_at.append((data.parts["few_target"], None))
    for cases, masks in looked_at:
        try:
            checked(cases, task, masks, channels, nan_background=flags.nan_background)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return data


def _few(table, target, task):
    """The few labelled target cases; refused here if they cannot be used, before the training."""
    if not table:
        return target.iloc[:0]
    from keras_meduda.data.cases import read_cases
    from keras_meduda.data.few import check_few

    cases = read_cases(table).assign(domain=target["domain"].iloc[0], split="train")
    if "encoding" in target:
        cases["encoding"] = target["encoding"].iloc[0]
    try:
        check_few(cases, task, target[target["split"] == "test"])
    except ValueError as error:
        raise ValueError(f"--few {table}: {str(error).removeprefix('few: ')}") from error
    return cases


def _held_out(source, seed):
    """The source with a fifth of its patients held out, where the table tests none of them."""
    from keras_meduda.data.cases import split_cases

    trains = source["split"] == "train"
    if (source["split"] == "test").any() or not trains.any():
        return source
    parts = split_cases(source[trains], {"train": 0.8, "test": 0.2}, seed)
    split = source["split"].where(~trains, parts["split"].reindex(source.index))
    if (held := (split == "test")).any():
        print(
            f"{held.sum()} source cases of {source['group'][held].nunique()} patients are held out "
            "from training: how far an adaptation goes is decided on them. Name cases of split "
            "'test' to choose them yourself.",
            file=sys.stderr,
        )
    else:
        raise ValueError(
            f"The {trains.sum()} source cases are of {source['group'][trains].nunique()} patients, "
            "too few to hold any out from training, and without one how far an adaptation goes "
            "cannot be decided; expected source cases of split 'test', or a column group with "
            "several patients."
        )
    return source.assign(split=split)


def _split(source, target, flags):
    """Both in train and test; a group that both have, such as a patient, is in one part alone."""
    import pandas as pd

    from keras_meduda.data.cases import split_or_given, split_together
    from keras_meduda.data.splits import in_folds

    shares, seed = {"train": 0.8, "test": 0.2}, flags.seed
    if flags.folds:
        both = pd.concat([source, target], keys=["source", "target"])
        both = in_folds(both, flags.folds, flags.fold, seed)
        return both.loc["source"], both.loc["target"]
    both = pd.concat([source, target])
    if (both["split"] == "").all() and set(source["group"]) & set(target["group"]):
        both = split_together(both, shares, seed)
        return both[: len(source)], both[len(source) :]
    return split_or_given(source, shares, seed), split_or_given(target, shares, seed)


def _check_parts(data, source, target):
    """Refuses data without training cases or of one domain twice; warns of what is unused."""
    from keras_meduda.data.io import DataError, Problem, image_files

    both = {"source": source, "target": target}
    if empty := [
        Problem(
            "case table",
            f"no {name} case of split 'train' among {sorted(cases['split'].unique())}",
            "train, and test for those that are scored",
        )
        for name, cases in both.items()
        if name not in data.parts
    ]:
        raise DataError(*empty)
    files, others = (
        {os.path.realpath(file) for cell in cases["image"] for file in image_files(cell)}
        for cases in (source, target)
    )
    if twice := files & others:
        raise ValueError(
            f"{len(twice)} image files are in the source and in the target, such as {min(twice)}; "
            "expected two domains (--source-domain, --target-domain)."
        )
    for name, cases in both.items():
        unread = cases["split"][~cases["split"].isin(["train", "test"])]
        for split, count in unread.value_counts().items():
            print(
                f"warning: {count} {name} cases of split {split!r} are not used; expected 'train' "
                "or 'test'.",
                file=sys.stderr,
            )
    tested = target[target["split"] == "test"]
    if shared := set(data.parts["source"]["group"]) & set(tested["group"]):
        print(
            "warning: groups in the source's training part and in the target's test part: "
            f"{', '.join(sorted(shared)[:3])} ({len(shared)} in all). If they are the same "
            "patients, the figures are too good: give both one split.",
            file=sys.stderr,
        )


def _domains(flags, draw):
    """Source cases, target cases, the task, and where they come from if not from a table."""
    from keras_meduda.data.cases import read_cases

    check(flags)
    if flags.source_dataset:
        own = flags.source_dataset, flags.source_root
        other = flags.target_dataset or own[0], flags.target_root or own[1]
        source, task = of_dataset(*own, flags.source_domain, flags)
        target, target_task = of_dataset(*other, flags.target_domain, flags)
        there, here = ((t.classes, t.overlapping) for t in (task, target_task))
        if there != here:
            raise ValueError(
                f"source has (classes, overlapping) {there}, target {here}; expected the same."
            )
        described = f"{own[0]} in {own[1]} → " + (
            f"{flags.target_dataset} in {flags.target_root}"
            if flags.target_dataset
            else f"{flags.target_domain}, the same data set"
        )
        return source, target.assign(encoding=target_task.encoding), task, described
    table, classes = flags.cases, flags.classes or TIDY_FUNDUS
    names = flags.source_domain, flags.target_domain
    if not table:
        table, *names, classes = draw()
    cases = read_cases(table)
    source, target = (of_domain(cases, name, table) for name in names)
    return source, target, task_of(classes, source, flags.tolerance), None


def check(flags: ShiftFlags):
    """Refuses flags that name no data, half of them, or data twice, and a start that is no run.

    Raises:
        ValueError: which were given and which were expected.
    """
    from keras_meduda.run import settings_of

    by_table = [flags.cases]
    by_name = [flags.source_dataset, flags.source_root, flags.target_dataset, flags.target_root]
    if any(by_table) and any(by_name):
        raise ValueError(
            "Received both --cases and --source-dataset/--target-dataset; expected one of them."
        )
    domains = flags.source_domain, flags.target_domain
    if any(domains) and not any(by_table + by_name):
        raise ValueError(
            "--source-domain and --target-domain need data: --cases, or --source-dataset and "
            "--source-root."
        )
    two_of_one = all(by_name[:2]) and not any(by_name[2:]) and all(domains)
    if any(by_name) and not (all(by_name) or two_of_one):
        raise ValueError(
            "Expected --source-dataset, --source-root, --target-dataset and --target-root "
            "together; the last two may be left out where --source-domain and --target-domain are "
            "two of one data set."
        )
    if flags.init:
        settings_of(flags.init)
    if flags.cases and not all(domains):
        raise ValueError("--cases needs --source-domain and --target-domain.")
