"""What a run remembers of its cases: which have trained it, which chose its weights, which test it.

A run folder keeps them as `cases.csv`, a case table with two columns more: `part`, what the case
was there for, and `fingerprint`, a digest of what its image files hold. By that, or by name and
path, a case is known again.
"""

import functools
import os
from pathlib import Path

import pandas as pd

from keras_meduda.data.cache import contents, digest, states
from keras_meduda.data.cases import read_cases, write_cases
from keras_meduda.data.files import each
from keras_meduda.data.io import image_files

NAME = "cases.csv"
TRAINED = {  # by part, in the order in which they are told
    "source": "have trained {run} with their labels",
    "oracle": "have trained {run} with their labels",
    "few": "have trained {run} with their labels",
    "few_target": "have trained {run} with their labels",
    "validation": "have chosen the weights of {run}",
    "target": "have trained {run}, their images without their labels",
}
_TOGETHER = " and "  # joins the parts of a case that has several


def write_parts(folder, parts: dict[str, pd.DataFrame], tests: dict, start=None) -> None:
    """Writes `cases.csv` into a run folder.

    Args:
        folder: the run folder.
        parts: the cases that train the run or choose its weights, by the names of `TRAINED`.
        tests: the cases that are kept back for tests, by heading.
        start: folder of the run that this one starts from; what has trained that has trained this.
            Default `None`.
    """
    before = None if start is None else read_parts(start)
    rows = [] if before is None else [before[before["split"] != "test"]]  # files may be gone
    of = [(name, "val" if name == "validation" else "train", c) for name, c in parts.items()]
    of += [(name, "test", cases) for name, cases in tests.items()]
    for name, split, cases in of:
        rows.append(cases.assign(part=name, split=split, fingerprint=fingerprints(cases)))
    rows = [cases for cases in rows if len(cases)]
    if not rows:
        return
    table = pd.concat(rows).fillna("")
    keys, first = ["domain", "case", "image"], dict.fromkeys(table.columns, "first")
    how = {**first, "mask": "max", "fingerprint": "last"}
    how["part"] = lambda names: _TOGETHER.join(dict.fromkeys(names))
    table = table.groupby(keys, sort=False).agg(how).reset_index(drop=True)
    twice = table.duplicated(["domain", "case"], keep=False)  # of two data sets
    table.loc[twice, "domain"] += " (" + table.loc[twice, "part"] + ")"
    write_cases(table, Path(folder) / NAME)


def read_parts(folder) -> pd.DataFrame | None:
    """The cases of a run; `None` where its folder keeps none, as of earlier versions."""
    file = Path(folder) / NAME
    if not file.is_file():
        return None
    cases = read_cases(file)
    return cases if {"part", "fingerprint"} <= set(cases) else None


def known(cases: pd.DataFrame, folder) -> pd.DataFrame:
    """What a run knows of cases: its `split` and `part` of each, empty where it knows nothing.

    Args:
        cases: a case table, wherever its files lie now.
        folder: the run folder.
    """
    kept, found = read_parts(folder), pd.DataFrame("", cases.index, ["split", "part"])
    if kept is None:
        return found
    rows = list(zip(kept["split"], kept["part"], strict=True))
    by_content = dict(zip(kept["fingerprint"], rows, strict=True))
    by_path = dict(zip(_places(kept), rows, strict=True))
    both = zip(_places(cases), fingerprints(cases), strict=True)
    none = ("", "")
    found[:] = [by_path.get(place) or by_content.get(content, none) for place, content in both]
    return found


def seen(cases: pd.DataFrame, folder, run: str = "this run") -> list[str]:
    """Sentences that name evaluated cases which are not new to a run; none where all are.

    Args:
        cases: what is evaluated.
        folder: the run folder.
        run: what the sentences call it.
    """
    told, parts = {}, known(cases, folder)["part"].str.split(_TOGETHER)
    for case, names in zip(cases["case"], parts, strict=True):
        if first := next((said for part, said in TRAINED.items() if part in names), None):
            told.setdefault(first, []).append(case)
    return [
        f"{len(names)} of {len(cases)} evaluated cases {said.format(run=run)}: figures on them are "
        f"too good ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})."
        for said, names in told.items()
    ]


def fingerprints(cases: pd.DataFrame) -> tuple[str, ...]:
    """A digest of what the image files of each case hold, wherever they lie.

    Raises:
        DataError: the files that cannot be read.
    """

    def of(cell):
        files = image_files(cell)
        return _fingerprint(tuple(files), str(states(files)))

    return each(of, list(cases["image"]), "reading images", os.cpu_count() or 1)


@functools.cache  # the stages of a study have the same cases
def _fingerprint(files, state):
    return digest(contents(files))


def _places(cases):
    """Name and files of each case."""
    cells = ("|".join(os.path.realpath(f) for f in image_files(cell)) for cell in cases["image"])
    return list(zip(cases["case"], cells, strict=True))
