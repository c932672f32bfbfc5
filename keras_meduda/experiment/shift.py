"""Flags of an experiment on two domains: the source with labels, the target without."""

from dataclasses import dataclass, replace
from typing import Literal

from keras_meduda.experiment.one_domain import DATASETS
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

    @property
    def drawn(self) -> bool:
        """Whether no data are named, so that phantoms are drawn."""
        return not (self.cases or self.source_dataset)

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
    """What the network sees at once, in the order of --size; the rest is predicted by a sliding
    window. Default: photographs whole, volumes in patches of 64 64 64 voxels of the grid."""
    spacing: tuple[Positive, Positive, Positive] | None = None
    """Of volumes: voxels in mm, in the order of --size, to which they are resampled; default: the
    files' own."""
    fit: Literal["crop", "crop_foreground"] = "crop"
    """Of volumes larger than the grid: keep the middle, or what lies around all that is not 0."""

    def grid(self, data, needs, side=192, **picture):
        """The network's grid of the data; a backbone has photographs in the range −1…1.

        Args:
            data: as `read` gives them.
            needs: of the network, as `models.needs` has them.
            side: of photographs, in pixels, unless --size names one; a first try has a third of it.
                Default 192.
            picture: arguments of `Preprocessing` for photographs.

        Raises:
            ValueError: flags of volumes with photographs, or sizes that cannot be.
        """
        import pandas as pd

        from keras_meduda.data.cases import are_volumes
        from keras_meduda.experiment.grids import axes_of, picture_grid, volume_grid

        cases = pd.concat([*data.parts.values(), *data.tests.values()])
        if not are_volumes(cases):
            picture |= self.ranged
            if self.spacing or self.fit != "crop":
                raise ValueError("--spacing and --fit are for volumes; received pictures.")
            size, patch = self.size or side, self.patch
            if self.smoke:
                size, patch = side // 3, side // 6 if patch else None
            return picture_grid(size, patch, **picture)
        size = self.size or ((48, 48, 48) if self.drawn else (144, 176, 160))
        patch = self.patch or ((32, 32, 32) if self.drawn else (64, 64, 64))
        if self.smoke:
            size, patch = (32, 32, 32), (16, 16, 16)
        axes = axes_of(cases, needs.axes)

        def along(sides):  # from the order of the flags to the network's
            return tuple(sides["XYZ".index(a)] for a in axes) if len(sides) == 3 else sides

        spacing = along(self.spacing) if self.spacing else None
        return volume_grid(
            cases, size=along(size), patch=along(patch), spacing=spacing, axes=axes, fit=self.fit
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
