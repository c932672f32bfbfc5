"""Volumes of the brain: tumours (BraTS), ischaemic lesions of rats and mice."""

import re
from collections import defaultdict

import pandas as pd

from keras_meduda.data.cases import case_table, split_cases
from keras_meduda.data.catalog.general import folders
from keras_meduda.data.catalog.layout import find_files, pairs, recognised, relative
from keras_meduda.data.io import DataError, Problem
from keras_meduda.task import Task

CONTRASTS = ("flair", "t1", "t1ce", "t2")
TUMOUR = Task(("tumour",), values={"tumour": (1, 2, 3, 4)}, unit="mm")
LESION = Task(("lesion",), unit="mm")


def brats(root) -> tuple[pd.DataFrame, Task]:
    """BraTS 2018 to 2021, each contrast a domain of its own, and the whole tumour as one class.

    `**/<case>_{flair,t1,t1ce,t2}.nii.gz` and `**/<case>_seg.nii.gz`, `.nii` as well, in a folder a
    case as shipped or all in one. A case has a row in every contrast that is there, and is its own
    group. The split is at random (seed 0), 80 : 20 by case and alike in all domains: no brain that
    one contrast is tested on has been seen in another.

    Args:
        root: folder that holds such files.

    Returns:
        `(cases, task)`; domains `flair`, `t1`, `t1ce`, `t2`. The parts of the tumour, 1, 2 and 4 (3
        in some copies), are merged; for others pass a `Task` of your own to whatever reads masks.

    Raises:
        DataError: no such files, a case of two segmentations, or one of none of the cases.

    Source:
        U. Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark, arXiv:2107.02314.
    """
    rows, masks, lone = [], {}, defaultdict(list)
    for path in find_files(root, r"(?i)seg[^/]*\.nii(\.gz)?$"):
        if case := re.match(r"(?i)(.+)_seg\.nii", path.name):
            if case[1] in masks:
                raise DataError(Problem(path, f"a second mask of {case[1]!r}", "one a case"))
            masks[case[1]] = path
        else:
            lone[path.parent].append(path)  # 2020 has one of a name of its own beside its case
    here = defaultdict(set)  # the cases of each folder
    for path in find_files(root, rf"(?i)_({'|'.join(CONTRASTS)})\.nii(\.gz)?$"):
        case, contrast = re.match(r"(?i)(.+)_(\w+?)\.nii", path.name).groups()
        here[path.parent].add(case)
        mask = masks.get(case) or next(iter(lone[path.parent]), "")
        rows.append({"case": case, "domain": contrast.lower(), "image": path, "mask": mask})
    if odd := [p for folder, cases in here.items() for p in lone[folder] if len(cases) > 1]:
        raise DataError(*(Problem(p, "a mask of no case", "<case>_seg.nii.gz") for p in odd))
    cases = recognised(rows, root, "**/<case>_{flair,t1,t1ce,t2}.nii.gz and <case>_seg.nii.gz")
    patients = case_table({"case": sorted(set(cases["case"])), "image": "-"})
    patients = split_cases(patients, {"train": 0.8, "test": 0.2})
    return cases.assign(split=cases["case"].map(patients.set_index("case")["split"])), TUMOUR


def ratlesnet(root) -> tuple[pd.DataFrame, Task]:
    """Rat brains after a stroke in RatLesNetV2's layout; every study is a domain.

    `<study>/<time>/<id>/scan.nii.gz` with `scan_lesion.nii.gz` (or `scan_lesionIAM.nii.gz`, which
    its code reads), `.nii` as well. A rat (`<study>_<id>`) is a group over all times, a case
    `<time>_<id>`, where there are several studies `<study>_<time>_<id>`.

    Args:
        root: folder of the studies.

    Returns:
        `(cases, task)`, not split; a further column `time`.

    Raises:
        DataError: no such files.

    Source:
        J. M. Valverde et al., RatLesNetv2, Frontiers in Neuroscience 14:610239, 2020.
    """
    masks = {path.parent: path for path in find_files(root, r"/scan_lesion(IAM)?\.nii(\.gz)?$")}
    scans = find_files(root, r"[^/]+/[^/]+/[^/]+/scan\.nii(\.gz)?$")
    studies, rows = {scan.parents[2] for scan in scans}, []
    for scan in scans:
        study, time, rat = relative(root, scan.parent).split("/")[-3:]
        rows.append(
            {
                "case": f"{time}_{rat}" if len(studies) == 1 else f"{study}_{time}_{rat}",
                "domain": study,
                "group": f"{study}_{rat}",
                "time": time,
                "image": scan,
                "mask": masks.get(scan.parent, ""),
            }
        )
    layout = "<study>/<time>/<id>/scan.nii.gz and scan_lesion.nii.gz (or scan_lesionIAM.nii.gz)"
    return recognised(rows, root, layout), LESION


def mouse_mcao(root) -> tuple[pd.DataFrame, Task]:
    """Mouse brains after occlusion of the middle cerebral artery, with the split they come in.

    `{train,val,test}_image/<case>.nii` and `{train,val,test}_mask/<case>_mask.nii`, `.nii.gz` as
    well. A mask without a lesion is a sham operation.

    Args:
        root: folder that holds these.

    Returns:
        `(cases, task)`; the domain is `mouse_mcao`.

    Raises:
        DataError: no such files, or a mask without an image.

    Source:
        The repository MJHossainSNMBU/Mice-Brain-Lesion-Segmentation-3D-MRI-.
    """
    parts = [
        pairs(root, "mouse_mcao", (f"{part}_image", f"{part}_mask")).assign(split=part)
        for part in ("train", "val", "test")
    ]
    layout = "{train,val,test}_image/<case>.nii and {train,val,test}_mask/<case>_mask.nii"
    return recognised(pd.concat(parts), root, layout), LESION


def brain_mouse(root) -> tuple[pd.DataFrame, Task]:
    """Brains of mice at 0.15 mm with their ventricles; wild type and transgenic are two domains.

    `images/<id>_{WT,UT}.nii.gz` and `masks/<id>_{WT,UT}_mask.nii.gz`.

    Args:
        root: folder that holds these.

    Returns:
        `(cases, task)`, not split; domains `wild_type` and `transgenic`.

    Raises:
        DataError: no such files, a mask without an image, or a name of neither kind.
    """
    task = Task(("ventricles",), unit="mm")
    cases, task = folders(root, task, domain="_(WT|UT)$")
    return cases.assign(domain=cases["domain"].map({"WT": "wild_type", "UT": "transgenic"})), task
