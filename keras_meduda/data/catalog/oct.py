"""Optical coherence tomography: the macular oedema of Chiu 2015."""

import re
from pathlib import Path

from keras_meduda.data.catalog.layout import is_tidy, pairs, recognised
from keras_meduda.data.files import is_hidden
from keras_meduda.data.io import DataError, Problem
from keras_meduda.data.matlab import convert_chiu
from keras_meduda.task import Task

_CHIU = Task(classes=("fluid",))
PUBLISHED_TEST = {
    f"img_{n}"
    for n in (79, 106, 39, 54, 86, 83, 21, 68, 75, 33, 32, 22, 51, 5, 88, 100, 104, 80, 67, 98, 99)
    + (13,)
}


def chiu(root, split="published", fold=None, cache=None, size=(256, 256)):
    """The OCT B-scans with macular oedema of Chiu 2015, ten subjects of eleven labelled B-scans.

    * As shipped: ten `Subject_<n>.mat` (496 × 768 × 61), in the order of n; their labelled B-scans
      are written as PNG once, see `convert_chiu`.
    * Tidy: `images/img_<n>.png`, `masks/img_<n>.png` (1 fluid), `splits/{train,val}.txt`; the
      subject is n // 11.

    The published split is by image: every subject of its test part has other B-scans in training,
    which makes for better figures than a new patient would give. There `group` is the case, or the
    table would not be valid; the column `subject` says whose B-scan it is, so that intervals can be
    resampled by subject: `cases.assign(group=cases["subject"])`.

    Args:
        root: folder that holds one of these.
        split: `"published"` (88 train, 22 test) or `"subject"`: all B-scans of two subjects are
            tested, the others train.
        fold: which two, 0 to 4, for `"subject"` alone. Default the first two.
        cache: folder of the PNG files made of `.mat` ones. Default: beside the root, its name and
            `_png`.
        size: of these, as published; `None` keeps the original pixels. Default `(256, 256)`.

    Returns:
        `(cases, task)`; the domain is `chiu`, the class `fluid`.

    Raises:
        DataError: neither is there, a file that cannot be read, or B-scans that the published split
            does not know.
        ValueError: another split or fold, or a fold of the published split.

    Source:
        S. J. Chiu et al., Kernel regression based segmentation of optical coherence tomography
        images with diabetic macular edema, Biomedical Optics Express 6(4), 2015; split of the
        repository nogibjj/yj_xq_661_final_project.
    """
    if split not in ("published", "subject"):
        raise ValueError(f"chiu: split={split!r}; expected 'published' or 'subject'.")
    if split == "published" and fold is not None:
        raise ValueError(f"chiu: fold={fold}; split='published' has no folds.")
    root = Path(root).absolute()
    mats = [file for file in root.glob("*.mat") if not is_hidden(file.name)]
    if files := sorted(mats, key=_by_number):
        folder = Path(cache or root.with_name(f"{root.name}_png"))
        folder = folder / ("original" if size is None else "x".join(map(str, size)))
        cases, test = convert_chiu(files, folder, size), PUBLISHED_TEST
        if split == "published" and len(cases) != 110:
            found = f"{len(cases)} labelled B-scans in {len(files)} files"
            raise DataError(Problem(root, found, "110 in ten for split='published'"))
    else:
        cases, test = _tidy_chiu(root, split)
    if split == "published":
        parts = ["test" if case in test else "train" for case in cases["case"]]
        return cases.assign(split=parts, group=cases["case"]), _CHIU
    subjects = list(dict.fromkeys(cases["subject"]))
    pairs = [subjects[i : i + 2] for i in range(0, len(subjects), 2)]
    fold = fold or 0
    if fold not in range(len(pairs)):
        raise ValueError(f"chiu: fold={fold}; {len(subjects)} subjects give 0 to {len(pairs) - 1}.")
    parts = ["test" if subject in pairs[fold] else "train" for subject in cases["subject"]]
    return cases.assign(split=parts, group=cases["subject"]), _CHIU


def _by_number(file):
    """A key by which `Subject_2` comes before `Subject_10`: the published split counts B-scans."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.stem)]


def _tidy_chiu(root, split):
    """Cases of the PNG layout in the order of their numbers, and the names that are tested."""
    layout = "Subject_<n>.mat, or images/img_<n>.png, masks/ and splits/{train,val}.txt"
    cases = recognised(pairs(root, "chiu") if is_tidy(root) else [], root, layout)
    numbers = cases["case"].str.extract(r"^img_(\d+)$", expand=False)
    if numbers.isna().any():
        name = cases["case"][numbers.isna()].iloc[0]
        raise DataError(Problem(root, f"the case {name!r}", "img_<n>"))
    cases["subject"] = [f"subject_{int(n) // 11}" for n in numbers]
    cases = cases.iloc[numbers.astype(int).argsort()].reset_index(drop=True)
    if split != "published":
        return cases, set()
    lists = {}
    for part in ("train", "val"):
        file = root / "splits" / f"{part}.txt"
        if not file.is_file():
            raise DataError(Problem(file, "no such file", "the names of the split, one a line"))
        lists[part] = set(file.read_text().split())
    unknown = set(cases["case"]) ^ (lists["train"] | lists["val"])
    if unknown or lists["train"] & lists["val"]:
        odd = sorted(unknown or lists["train"] & lists["val"])
        found = f"{len(odd)} cases in images/ or splits/ alone, or in both lists: {odd[0]}"
        raise DataError(Problem(root, found, "every image in one list"))
    return cases, lists["val"]
