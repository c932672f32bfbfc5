"""AERUNet with KD-UDA: train on a labelled scanner, adapt to an unlabelled one by KL distillation.

Paper: KD-UDA with AERUNet (thesis, Ashraf Ul Alam). The source is trained on in the target's
histogram as well (unless --no-augment-source). Photographs are adapted whole, volumes on random
patches and predicted by a sliding window. The thesis' teacher sees the target in the source's style
(--mode style, the default for volumes); in photographs the one that sees it as it is is the safer.

python scripts/train_aerunet_kd.py --oracle                  (phantoms; --volumes for brains)
python scripts/train_aerunet_kd.py --source-dataset refuge --source-root REFUGE \
    --target-dataset drishti_gs --target-root Drishti-GS1
python scripts/train_aerunet_kd.py --source-dataset brats --source-root BRATS \
    --source-domain t2 --target-domain flair --size 144 176 160 --patch 64 64 64
python scripts/train_aerunet_kd.py --cases cases.csv --source-domain zeiss --target-domain canon
"""

from dataclasses import dataclass
from typing import Literal

from keras_meduda.cli import Flags, run_script


@dataclass
class AERUNetFlags(Flags):
    """AERUNet with KL distillation."""

    size: tuple[int, ...] = ()
    """The network's grid: pixels a side, 192 by default, or voxels from left to right, back to
    front and bottom to top, 144 176 160."""
    batch_size: int | None = None
    """Of each domain: photographs, 8 by default, or patches, 2."""
    filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Width of each level; the thesis' 2D network has 32 64 128 256 512."""
    augment_source: bool = True
    """Recolour source images, and give half of them the target's style, while adapting."""
    mode: Literal["style", "strong", "marginal", "plain"] | None = None
    """What the divergence compares (see KLDistillation); by default strong in photographs and style
    in volumes."""
    temperature: float = 2.0
    """Of the softened probabilities."""
    ema: float | None = 0.99
    """Decay of the averaging teacher; None keeps it frozen."""
    patch: tuple[int, int, int] | None = None
    """Of volumes, in voxels of the grid, 64 64 64 by default; as large as the grid is the whole
    volume at once."""
    spacing: tuple[float, float, float] | None = None
    """Of volumes: voxels in mm to which they are resampled; default: the files' own."""
    fit: Literal["crop", "crop_foreground"] = "crop"
    """Of volumes larger than the grid: keep the middle, or what lies around all that is not 0."""
    volumes: bool = False
    """Without data: drawn brains, T2 to FLAIR, instead of drawn optic discs."""


def pictures(flags):
    """Preprocessing, shape of the network's input, and settings of the study for photographs."""
    import keras_meduda as km

    if flags.patch or flags.spacing or flags.fit != "crop":
        raise ValueError("--patch, --spacing and --fit are for volumes; received photographs.")
    flags.batch_size, flags.mode = flags.batch_size or 8, flags.mode or "strong"
    size = tuple(flags.size) * (2 if len(flags.size) == 1 else 1) or (192, 192)
    size = (64, 64) if flags.smoke else size
    preprocessing = km.Preprocessing(size=size, intensity=("clahe",), normalise="zero_one")
    return preprocessing, (*size, 3), {"styles": 4}


def volumes(flags, spacings):
    """The same for volumes: patches, foreground z-scores, no turn that mixes unequal voxel sides.

    `spacings` are those of the files, mm.
    """
    import numpy as np

    import keras_meduda as km
    from keras_meduda.data.augment import Geometry, Intensity, RandomPatch

    flags.batch_size, flags.mode = flags.batch_size or 2, flags.mode or "style"
    size, patch = tuple(flags.size) or (144, 176, 160), flags.patch or (64, 64, 64)
    if flags.smoke:
        size, patch = (32, 32, 32), (16, 16, 16)
    if len(size) != 3:
        raise ValueError(f"--size {' '.join(map(str, size))}: volumes have three sides.")
    if any(p > n for p, n in zip(patch, size, strict=True)):
        raise ValueError(f"--patch {patch} is larger than the grid {size}.")
    preprocessing = km.Preprocessing(
        size, normalise="zscore_foreground", channels=1, axes="XYZ", spacing=flags.spacing,
        fit=flags.fit,
    )  # fmt: skip
    sides = np.array([flags.spacing] if flags.spacing else spacings)
    planes = [np.delete(sides, axis, axis=1) for axis in range(3)]
    turns = tuple(10.0 if (p.max(axis=1) < 1.5 * p.min(axis=1)).all() else 0.0 for p in planes)
    batches = {"geometry": Geometry(rotation=turns), "photometry": Intensity()}
    batches["patch"] = RandomPatch(patch)
    window = km.SlidingWindow(patch, gaussian=True)
    return preprocessing, (*patch, 1), {"styles": 2, "batches": batches, "window": window}


def draw_brains(flags):
    """Phantoms in place of data."""
    from keras_meduda.data.phantoms import drawn, write_brain
    from keras_meduda.study import check_data_flags

    check_data_flags(flags)
    count, size = (3, (24, 28, 20)) if flags.smoke else (24, (44, 48, 40))
    flags.cases = drawn(write_brain, flags.out, count, size, flags.seed)
    flags.classes, flags.source_domain, flags.target_domain = ("tumour=1",), "t2", "flair"
    flags.size, flags.patch = flags.size or (48, 48, 48), flags.patch or (32, 32, 32)


def main(flags):
    """Trains, adapts and evaluates."""
    import keras_meduda as km
    from keras_meduda.adaptation import announce, run_study
    from keras_meduda.data.io import is_volume, read_spacing
    from keras_meduda.study import read_study

    if flags.smoke:
        flags.filters = (8, 16)
    if flags.volumes and not (flags.cases or flags.source_dataset):
        draw_brains(flags)
    study = read_study(flags)
    images = [*study.source["image"], *study.target["image"]]
    if is_volume(images[0]):
        spacings = [read_spacing(image) for image in images if is_volume(image)]
        preprocessing, shape, settings = volumes(flags, spacings)
    else:
        preprocessing, shape, settings = pictures(flags)
    if flags.mode != "style":
        settings["styles"] = 0

    def network():
        return km.models.AERUNet(shape, study.task.channels, flags.filters)

    def method(trained):
        return km.methods.KLDistillation(
            trained,
            study.task.overlapping,
            mode=flags.mode,
            temperature=flags.temperature,
            ema=flags.ema,
        )

    announce(study, preprocessing, network(), flags, settings["styles"])
    run_study(study, flags, preprocessing, network, method, **settings)


if __name__ == "__main__":
    run_script(main, AERUNetFlags)
