"""Folder layouts of the public data sets, read as their owners ship them: a case table and a task.

Every reader takes a root folder and returns `(cases, task)`. Images without a mask are unlabelled
cases. A layout that cannot be recognised is an error that says what was looked for and what is
there.
"""

import re
from pathlib import Path

import pandas as pd

from keras_meduda.data.cases import case_table, read_cases, split_cases
from keras_meduda.data.io import FORMATS, DataError, Problem, stem
from keras_meduda.data.matlab import convert_chiu
from keras_meduda.task import Task

FUNDUS = Task(classes=("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})
_DARK_CUP = Task(
    classes=("cup", "disc"),
    overlapping=True,
    values={"cup": (0,), "disc": (0, 128)},
    background=(255,),
)
_CHIU = Task(classes=("fluid",))
_CHIU_TEST = {
    f"img_{n}"
    for n in (79, 106, 39, 54, 86, 83, 21, 68, 75, 33, 32, 22, 51, 5, 88, 100, 104, 80, 67, 98, 99)
    + (13,)
}


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
    if _is_tidy(root):
        return split_cases(_pairs(root, "refuge"), {"train": 220, "test": 101}), FUNDUS
    parts = {
        "Training": ("zeiss", "train"),
        "Validation": ("canon", "train"),
        "Test": ("canon", "test"),
    }

    def part(path):
        found = re.search("(Training|Validation|Test)(400|-GT)", _below(root, path))
        return found[1] if found else ""

    masks = {(part(path), stem(path)): path for path in _files(root, r"Disc_Cup_Masks/.*\.bmp$")}
    rows = []
    for image in _files(root, r"^(?!.*(Annotation|-GT)).*(Training|Validation|Test)400.*\.jpg$"):
        name, (domain, split) = stem(image), parts[part(image)]
        mask = masks.get((part(image), name)) or masks.get(("", name), "")
        rows.append({"case": name, "domain": domain, "split": split, "image": image, "mask": mask})
    layout = "{Training,Validation,Test}400/**/*.jpg, or images/ and masks/"
    return _found(rows, root, layout), _DARK_CUP


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
    if _is_tidy(root):
        cases = _pairs(root, "drishti_gs")
        cases["split"] = cases["case"].str.extract("^(train|test)_", expand=False).fillna("")
        return _found(cases if all(cases["split"]) else [], root, layout), FUNDUS
    maps = {path.name: path for path in _files(root, r"(cup|OD)segSoftmap\.png$")}
    rows = []
    for image in _files(root, r"(Training|Test)[^/]*/(.*/)?Images/(.*/)?drishtiGS_\d+\.png$"):
        name = stem(image)
        rows.append(
            {
                "case": name,
                "domain": "drishti_gs",
                "image": image,
                "split": "train" if "Training" in _below(root, image) else "test",
                "mask": _class_cell(
                    cup=maps.get(f"{name}_cupsegSoftmap.png"),
                    disc=maps.get(f"{name}_ODsegSoftmap.png"),
                ),
            }
        )
    return _found(rows, root, layout), FUNDUS


def rim_one_dl(root, partition="randomly") -> tuple[pd.DataFrame, Task]:
    """RIM-ONE DL with one of its two official splits.

    `partitioned_<partition>/**/r<1|2|3>_Im<n>.png` below a folder whose name starts with `train` or
    `test`, and `**/<name>-1-{Cup,Disc}-T.png`, binary.

    Args:
        root: folder that holds images and reference segmentations.
        partition: `"randomly"` or `"by_hospital"`. Default `"randomly"`.

    Returns:
        `(cases, task)`; the domain is `rim_one_dl`.

    Raises:
        DataError: no such files.

    Source:
        F. J. Fumero Batista et al., RIM-ONE DL, Image Analysis & Stereology 39(3), 2020.
    """
    masks = {path.name.lower(): path for path in _files(root, r"-1-(Cup|Disc)-T\.png$")}
    rows = []
    for image in _files(root, rf"partitioned_{partition}/(.*/)?(train|test).*/r\d_Im\d+\.png$"):
        name, below = stem(image), _below(root, image).rpartition(f"partitioned_{partition}")[2]
        rows.append(
            {
                "case": name,
                "domain": "rim_one_dl",
                "image": image,
                "split": "train" if "/train" in below else "test",
                "mask": _class_cell(
                    cup=masks.get(f"{name}-1-cup-t.png".lower()),
                    disc=masks.get(f"{name}-1-disc-t.png".lower()),
                ),
            }
        )
    layout = f"partitioned_{partition}/{{training_set,test_set}}/**/r<1|2|3>_Im<n>.png"
    return _found(rows, root, layout), FUNDUS


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
    return _found(cases, root, f"partitioned_{partition}/**/r3_Im<n>.png"), task


def fundus_rois(root) -> tuple[pd.DataFrame, Task]:
    """Disc regions in the layout of BEAL and UDA_CLR; every data set is a domain.

    `<domain>/{train,test}/ROIs/image/*` and `…/ROIs/mask/<same name>` with 0 cup, 128 rim, 255
    background; values that interpolation made count as the nearest of these.

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
    for image in _files(root, r"(^|/)(train|test)/ROIs/image/[^/]+$"):
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
    return _found(rows, root, "<domain>/{train,test}/ROIs/image/*"), task


def chiu(root, split="published", fold=0, cache=None, size=(256, 256)):
    """The OCT B-scans with macular oedema of Chiu 2015, ten subjects of eleven labelled B-scans.

    * As shipped: ten `Subject_<n>.mat` (496 × 768 × 61); their labelled B-scans are written as PNG
      once, see `convert_chiu`.
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
        fold: which two, 0 to 4, for `"subject"`.
        cache: folder of the PNG files made of `.mat` ones. Default: beside the root, its name and
            `_png`.
        size: of these, as published; `None` keeps the original pixels. Default `(256, 256)`.

    Returns:
        `(cases, task)`; the domain is `chiu`, the class `fluid`.

    Raises:
        DataError: neither is there, a file that cannot be read, or B-scans that the published split
            does not know.
        ValueError: another split or fold.

    Source:
        S. J. Chiu et al., Kernel regression based segmentation of optical coherence tomography
        images with diabetic macular edema, Biomedical Optics Express 6(4), 2015; split of the
        repository nogibjj/yj_xq_661_final_project.
    """
    if split not in ("published", "subject"):
        raise ValueError(f"chiu: split={split!r}; expected 'published' or 'subject'.")
    root = Path(root).absolute()
    if files := sorted(root.glob("*.mat")):
        folder = Path(cache or root.with_name(f"{root.name}_png"))
        folder = folder / ("original" if size is None else "x".join(map(str, size)))
        cases, test = convert_chiu(files, folder, size), _CHIU_TEST
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
    if fold not in range(len(pairs)):
        raise ValueError(f"chiu: fold={fold}; {len(subjects)} subjects give 0 to {len(pairs) - 1}.")
    parts = ["test" if subject in pairs[fold] else "train" for subject in cases["subject"]]
    return cases.assign(split=parts, group=cases["subject"]), _CHIU


def _tidy_chiu(root, split):
    """Cases of the PNG layout in the order of their numbers, and the names that are tested."""
    layout = "Subject_<n>.mat, or images/img_<n>.png, masks/ and splits/{train,val}.txt"
    cases = _found(_pairs(root, "chiu") if _is_tidy(root) else [], root, layout)
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


def folders(root, task=None, group=None) -> tuple[pd.DataFrame, Task]:
    r"""Any data set of images and masks with equal names; split it with `split_cases`.

    `<domain>/images/*` and `<domain>/masks/*`, or `images/*` and `masks/*` in the root itself,
    whose name is then the domain. A mask is named as its image, or so with `_mask` at its end.

    Args:
        root: the folder.
        task: what the masks hold. Default: one class, `foreground`, as 1 or 255.
        group: regular expression that finds the group, such as the patient, in a case's name; its
            first parenthesis if it has one. Default: every case is its own group.

    Returns:
        `(cases, task)`.

    Raises:
        DataError: no such files, or a mask without an image.

    Example:
        >>> root = getfixture("tmp_path")
        >>> (root / "siemens/images").mkdir(parents=True)
        >>> (root / "siemens/images/p07_1.png").touch()
        >>> cases, task = folders(root, group=r"p\d+")
        >>> cases.loc[0, ["case", "domain", "group"]].tolist()
        ['p07_1', 'siemens', 'p07']
    """
    root = Path(root).absolute()
    inner = sorted(path.parent for path in root.glob("*/images"))
    homes = [root] if (root / "images").is_dir() else inner
    cases = pd.concat([_pairs(home, home.name) for home in homes] or [pd.DataFrame()])
    cases = _found(cases, root, "images/ and masks/, or <domain>/images/ and <domain>/masks/")
    if group is not None:
        found = [re.search(group, name) for name in cases["case"]]
        if None in found:
            raise DataError(
                Problem(
                    root,
                    f"the case {cases['case'][found.index(None)]!r}",
                    f"a name that matches {group!r}",
                )
            )
        cases["group"] = [match[1] if match.groups() else match[0] for match in found]
    return cases, task or Task(("foreground",), values={"foreground": (1, 255)})


def cases_at(path) -> pd.DataFrame:
    """Cases of whatever a path names: a case table, a data set of `folders`, or plain pictures.

    Args:
        path: a CSV file; a folder with `images/` and perhaps `masks/`, itself or in folders below
            it; or a folder of image files, which are unlabelled cases.

    Returns:
        A case table.

    Raises:
        DataError: none of these.

    Example:
        >>> path = getfixture("tmp_path") / "p07.png"
        >>> path.touch()
        >>> cases_at(path.parent).loc[0, "case"]
        'p07'
    """
    path = Path(path).absolute()
    if not path.is_dir():
        return read_cases(path)
    if (path / "images").is_dir() or any(path.glob("*/images")):
        return folders(path)[0]
    rows = [
        {"case": stem(file), "domain": path.name, "image": file}
        for file in _files(path, "^[^/]+$")
    ]
    return _found(rows, path, "image files, or images/ (and masks/), or a case table (.csv)")


def _files(root, pattern):
    """Visible files of known formats whose path below the root matches, sorted."""
    return [
        path
        for path in sorted(Path(root).absolute().rglob("*"))
        if path.name.lower().endswith(FORMATS)
        and not path.name.startswith(".")
        and re.search(pattern, _below(root, path))
    ]


def _below(root, path):
    return path.relative_to(Path(root).absolute()).as_posix()


def _is_tidy(root):
    return Path(root, "images").is_dir() and Path(root, "masks").is_dir()


def _pairs(home, domain):
    """Cases of `images` and `masks` with equal stems."""
    images, masks = {}, {}
    for found, kind in ((images, "images"), (masks, "masks")):
        for path in _files(Path(home, kind), ""):
            name = stem(path).removesuffix("_mask") if kind == "masks" else stem(path)
            if name in found:
                raise DataError(Problem(path, f"a second file named {name!r}", "one file a case"))
            found[name] = path
    if lost := sorted(set(masks) - set(images)):
        raise DataError(
            Problem(
                Path(home, "masks"),
                f"{len(lost)} masks without an image: {', '.join(lost[:5])}",
                "equal names in images/ and masks/",
            )
        )
    return case_table(
        [
            {"case": name, "domain": domain, "image": path, "mask": masks.get(name, "")}
            for name, path in images.items()
        ]
    )


def _class_cell(**files):
    """The mask cell of one file a class; empty where one is missing."""
    return "|".join(f"{name}={path}" for name, path in files.items()) if all(files.values()) else ""


def _found(rows, root, looked_for):
    """The case table, or what is there instead."""
    if len(rows):
        return case_table(rows)
    root = Path(root).absolute()
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    found = (
        f"{len(there)} entries: {', '.join(there[:8])}{' …' if len(there) > 8 else ''}"
        if there
        else "an empty folder"
        if root.is_dir()
        else "no such folder"
    )
    raise DataError(Problem(root, found, looked_for))
