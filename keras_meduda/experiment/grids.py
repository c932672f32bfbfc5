"""The network's grid for pictures and for volumes, and what goes with each."""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_meduda.data.augment import Geometry, Intensity, RandomPatch
from keras_meduda.data.io import DataError, Problem, image_files, read_shape, read_spacing
from keras_meduda.data.nifti import slice_axis
from keras_meduda.run.sliding import SlidingWindow
from keras_meduda.task import Preprocessing


@dataclass(frozen=True)
class Grid:
    """How images become a network's input: what a recipe takes of it.

    Args:
        preprocessing: the network's grid and range.
        batches: settings of `Batches` that belong to it.
        window: in which a network that trains on patches predicts. Default `None`.
        spacing: voxels in mm along the network's axes; `None` for pictures.
    """

    preprocessing: Preprocessing
    batches: dict[str, Any] = field(default_factory=dict)
    window: SlidingWindow | None = None
    spacing: tuple[float, ...] | None = None

    @property
    def volumes(self) -> bool:
        """Whether images have three axes."""
        return len(self.preprocessing.size) == 3


def picture_grid(size, patch=None, **preprocessing) -> Grid:
    """A grid for pictures.

    Args:
        size: one side in pixels, or height and width.
        patch: what the network sees at once, likewise. Default `None`: the whole grid.
        preprocessing: further arguments of `Preprocessing`.

    Raises:
        ValueError: a patch that is larger than the grid.

    Example:
        >>> picture_grid(512, patch=128).window.size
        (128, 128)
    """
    size = _square(size)
    if not patch:
        return Grid(Preprocessing(size=size, **preprocessing))
    patch = _square(patch)
    _check_patch(patch, size)
    window = SlidingWindow(patch, gaussian=True)
    return Grid(Preprocessing(size=size, **preprocessing), {"patch": RandomPatch(patch)}, window)


def volume_grid(
    cases, *, size=None, patch=None, spacing=None, axes="XYZ", fit="crop",
    normalise="zscore_foreground", multiple=1, turn=10.0,
) -> Grid:  # fmt: skip
    """A grid for volumes, from the headers of their files.

    Args:
        cases: case table of all that is trained on or predicted.
        size: of the grid, in voxels along `axes`. Default: that of the largest case, rounded up to
            a multiple of `multiple`.
        patch: what the network sees at once. Default: the whole grid.
        spacing: voxels in mm to which volumes are resampled. Default: the files' own, with a
            warning where these differ.
        axes: the network's order of axes; `"slices"`: the one across the slices first, which lies
            across the thickest voxels.
        fit: as `Preprocessing` takes it.
        normalise: as `Preprocessing` takes it.
        multiple: of which each side must be one. Default 1.
        turn: largest rotation in degrees in planes whose voxels are about square. Default 10.

    Raises:
        DataError: cases whose slices lie across different axes.
        ValueError: a size that is not three sides, or a patch that is larger than the grid.
    """
    files, spacings = _headers(cases)
    if axes == "slices":
        axes = _slices_first(files, spacings)
    if not spacing:
        seen = [f"voxels of {' × '.join(f'{mm:.2g}' for mm in s)} mm" for s in spacings]
        for problem in _unlike(files, seen, "--spacing", "warning"):
            print(problem, file=sys.stderr)

    def preprocessing(size, fit=fit):
        return Preprocessing(
            size, normalise=normalise, channels=1, axes=axes, spacing=spacing, fit=fit
        )

    if size is None:
        blank = (np.broadcast_to(0, (*read_shape(file), 1)) for file in files)
        grids = map(preprocessing((1, 1, 1), "crop").placement, blank, spacings)
        size = np.max([place.grid for place in grids], axis=0)
        size = -(-size // multiple) * multiple
    size = tuple(map(int, size))
    if len(size) != 3:
        raise ValueError(f"--size {' '.join(map(str, size))}: volumes have three sides.")
    if patch:
        _check_patch(patch, size)
    own = [[s["XYZ".index(a)] for a in axes] for s in spacings]
    sides = [spacing] if spacing else own
    batches = {"geometry": Geometry(rotation=_turns(sides, turn)), "photometry": Intensity()}
    if patch:
        batches["patch"] = RandomPatch(tuple(patch))
    window = SlidingWindow(tuple(patch), gaussian=True) if patch else None
    return Grid(preprocessing(size), batches, window, tuple(sides[0]))


def axes_of(cases, axes) -> str:
    """The network's order of axes, such as `"ZXY"`.

    Args:
        cases: case table of volumes.
        axes: the order, or `"slices"`: the one across the slices first, which lies across the
            thickest voxels.

    Raises:
        DataError: cases whose slices lie across different axes.
    """
    return _slices_first(*_headers(cases)) if axes == "slices" else axes


def _slices_first(files, spacings):
    """The order whose first axis lies across the slices, which must be the same in all files."""
    across = ["XYZ"[slice_axis(voxels)] for voxels in spacings]
    seen = [f"slices across {axis}" for axis in across]
    if turned := list(_unlike(files, seen, "--axes", "error")):
        raise DataError(*turned)
    return across[0] + "XYZ".replace(across[0], "")


def _headers(cases):
    """The first file of every case, and its voxels in mm."""
    files = [image_files(cell)[0] for cell in cases["image"]]
    return files, [read_spacing(file) for file in files]


def _square(size):
    """Height and width of one side, or of both."""
    sides = tuple(np.atleast_1d(size).tolist())
    return sides * 2 if len(sides) == 1 else sides


def _check_patch(patch, size):
    """Refuses a patch of another rank than the grid, or larger than it."""
    if len(patch) != len(size) or any(p > n for p, n in zip(patch, size, strict=True)):
        raise ValueError(f"--patch {patch}: expected {len(size)} sides, at most the grid's {size}.")


def _turns(sides, degrees):
    """Rotation about each axis: none that would mix axes whose voxels differ in length."""
    planes = [np.delete(np.array(sides), axis, axis=1) for axis in range(3)]
    return tuple(degrees if (p.max(axis=1) < 1.5 * p.min(axis=1)).all() else 0.0 for p in planes)


def _unlike(files, seen, remedy, severity):
    """The files of which something else is seen than of the first."""
    for file, now in zip(files, seen, strict=True):
        if now != seen[0]:
            yield Problem(file, now, f"{seen[0]} as in {files[0]}, or {remedy}", severity)
