"""Photographs of the optic disc: REFUGE, Drishti-GS1, RIM-ONE, and the disc regions of BEAL."""

import re

import pandas as pd

from keras_meduda.data.cases import split_cases
from keras_meduda.data.catalog.layout import (
    class_cell,
    find_files,
    is_tidy,
    pairs,
    recognised,
    relative,
)
from keras_meduda.data.io import stem
from keras_meduda.task import Task

FUNDUS = Task(classes=("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
_DARK_CUP = Task(
    classes=("cup", "disc"),
    overlapping=True,
    values={"cup": (0,), "disc": (0, 128)},
    background=(255,),
)


def refuge(root) -> tuple[pd.DataFrame, Task]:
    """REFUGE: the two cameras as domains `zeiss` and `canon`, or the tidy disc regions.

    * As shipped: `Training400/**/*.jpg` (Zeiss Visucam 500), `Validation400/**/*.jpg` and
      `Test400/**/*.jpg` (Canon CR-2), masks `**/Disc_Cup_Masks/**/*.bmp` with 0 cup, 128 rim, 255
      background. The validation images are the canon domain's `train` part.
    * Tidy: `images/*` and `masks/*` with 255 cup, 128 rim, 0 background; domain `refuge`, split at
      random (seed 0) 220 : 101.

    Args:
        root: folder that holds one of these.

    Returns:
        `(cases, task)`.

    Raises:
        DataError: neither is there.

    Source:
        J. I. Orlando et al., REFUGE Challenge, Medical Image Analysis 59, 2020.
    """
    if is_tidy(root):
        return split_cases(pairs(root, "refuge"), {"train": 220, "test": 101}), FUNDUS
    parts = {
        "Training": ("zeiss", "train"),
        "Validation": ("canon", "train"),
        "Test": ("canon", "test"),
    }

    def part(path):
        found = re.search("(Training|Validation|Test)(400|-GT)", relative(root, path))
        return found[1] if found else ""

    masks = {
        (part(path), stem(path)): path for path in find_files(root, r"Disc_Cup_Masks/.*\.bmp$")
    }
    rows = []
    for image in find_files(
        root, r"^(?!.*(Annotation|-GT)).*(Training|Validation|Test)400.*\.jpg$"
    ):
        name, (domain, split) = stem(image), parts[part(image)]
        mask = masks.get((part(image), name)) or masks.get(("", name), "")
        rows.append({"case": name, "domain": domain, "split": split, "image": image, "mask": mask})
    layout = "{Training,Validation,Test}400/**/*.jpg, or images/ and masks/"
    return recognised(rows, root, layout), _DARK_CUP


def drishti_gs(root) -> tuple[pd.DataFrame, Task]:
    """Drishti-GS1 with its official split, as shipped or as tidy disc regions.

    * As shipped, nested or not: `{Training,Test}/Images/**/drishtiGS_<n>.png` and
      `**/SoftMap/drishtiGS_<n>_{cupseg,ODseg}Softmap.png`, the share of four experts as 0 … 255; a
      pixel belongs to a class where the majority says so.
    * Tidy: `images/{train,test}_*` and `masks/*` with 255 cup, 128 rim, 0 background.

    Args:
        root: folder that holds one of these.

    Returns:
        `(cases, task)`; the domain is `drishti_gs`.

    Raises:
        DataError: neither is there.

    Source:
        J. Sivaswamy et al., Drishti-GS: retinal image dataset for optic nerve head segmentation,
        ISBI 2014.
    """
    layout = "{Training,Test}/Images/**/drishtiGS_<n>.png, or images/{train,test}_* and masks/"
    if is_tidy(root):
        cases = pairs(root, "drishti_gs")
        cases["split"] = cases["case"].str.extract("^(train|test)_", expand=False).fillna("")
        return recognised(cases if all(cases["split"]) else [], root, layout), FUNDUS
    maps = {path.name: path for path in find_files(root, r"(cup|OD)segSoftmap\.png$")}
    rows = []
    for image in find_files(root, r"(Training|Test)[^/]*/(.*/)?Images/(.*/)?drishtiGS_\d+\.png$"):
        name = stem(image)
        rows.append(
            {
                "case": name,
                "domain": "drishti_gs",
                "image": image,
                "split": "train" if "Training" in relative(root, image) else "test",
                "mask": class_cell(
                    cup=maps.get(f"{name}_cupsegSoftmap.png"),
                    disc=maps.get(f"{name}_ODsegSoftmap.png"),
                ),
            }
        )
    return recognised(rows, root, layout), FUNDUS


def rim_one_dl(root, partition="randomly") -> tuple[pd.DataFrame, Task]:
    """RIM-ONE DL with one of its two official splits; each of the three releases is a domain.

    `partitioned_<partition>/**/r<1|2|3>_Im<n>.png` below a folder whose name starts with `train` or
    `test`, and `**/<name>-1-{Cup,Disc}-T.png`, binary.

    Args:
        root: folder that holds images and reference segmentations.
        partition: `"randomly"` or `"by_hospital"`. Default `"randomly"`.

    Returns:
        `(cases, task)`; domains `rim_one_dl_r1`, `rim_one_dl_r2` and `rim_one_dl_r3`.

    Raises:
        DataError: no such files.

    Source:
        F. J. Fumero Batista et al., RIM-ONE DL, Image Analysis & Stereology 39(3), 2020.
    """
    masks = {path.name.lower(): path for path in find_files(root, r"-1-(Cup|Disc)-T\.png$")}
    rows = []
    for image in find_files(root, rf"partitioned_{partition}/(.*/)?(train|test).*/r\d_Im\d+\.png$"):
        name, below = stem(image), relative(root, image).rpartition(f"partitioned_{partition}")[2]
        rows.append(
            {
                "case": name,
                "domain": f"rim_one_dl_{name[:2].lower()}",
                "image": image,
                "split": "train" if "/train" in below else "test",
                "mask": class_cell(
                    cup=masks.get(f"{name}-1-cup-t.png".lower()),
                    disc=masks.get(f"{name}-1-disc-t.png".lower()),
                ),
            }
        )
    layout = f"partitioned_{partition}/{{training_set,test_set}}/**/r<1|2|3>_Im<n>.png"
    return recognised(rows, root, layout), FUNDUS


def rim_one_r3(root, partition="randomly") -> tuple[pd.DataFrame, Task]:
    """The images of RIM-ONE r3, which RIM-ONE DL holds as `r3_Im<n>.png`.

    The older release of r3 itself holds stereo pairs side by side, twice as wide as their masks; it
    is not read here.

    Args:
        root: folder of RIM-ONE DL.
        partition: `"randomly"` or `"by_hospital"`. Default `"randomly"`.

    Returns:
        `(cases, task)`; the domain is `rim_one_r3`.

    Raises:
        DataError: no such files.
    """
    cases, task = rim_one_dl(root, partition)
    cases = cases[cases["case"].str.startswith("r3_")].assign(domain="rim_one_r3")
    return recognised(cases, root, f"partitioned_{partition}/**/r3_Im<n>.png"), task


def fundus_rois(root) -> tuple[pd.DataFrame, Task]:
    """Disc regions in the layout of BEAL and UDA_CLR; every data set is a domain.

    `<domain>/{train,test}/ROIs/image/*` and `…/ROIs/mask/<same name>` with 0 cup, 128 rim, 255
    background; values that interpolation made count as the nearest of these (the original's bands
    end at 50 and 200).

    Args:
        root: folder of the data sets, or of one.

    Returns:
        `(cases, task)`; domains are named as their folders.

    Raises:
        DataError: no such files.

    Source:
        S. Wang et al., Boundary and Entropy-driven Adversarial Learning for Fundus Image
        Segmentation, MICCAI 2019.
    """
    rows = []
    for image in find_files(root, r"(^|/)(train|test)/ROIs/image/[^/]+$"):
        mask = image.parents[1] / "mask" / image.name
        split, dataset = image.parents[2], image.parents[3]
        rows.append(
            {
                "case": f"{split.name}_{stem(image)}",
                "domain": dataset.name,
                "image": image,
                "split": split.name,
                "mask": mask if mask.exists() else "",
            }
        )
    task = Task(_DARK_CUP.classes, True, _DARK_CUP.values, _DARK_CUP.background, tolerance=64)
    return recognised(rows, root, "<domain>/{train,test}/ROIs/image/*"), task
