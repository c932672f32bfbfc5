"""Which cases train, which choose, and which are tested: never one group in two of them."""

import pandas as pd

from keras_meduda.data.cases import split_together


def in_three(cases) -> pd.DataFrame:
    """Cases in train, val and test by whole groups: 70, 10 and 20 %, or val an eighth of train.

    Domains that share groups, such as contrasts of one patient, are split as one.

    Args:
        cases: case table, not split, or in train and test; one in all three parts stays as it is.

    Returns:
        A copy with a new `split` column.

    Raises:
        ValueError: a part without a case, or a split for some of the cases alone.

    Example:
        >>> from keras_meduda.data.cases import case_table
        >>> cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(10)])
        >>> in_three(cases)["split"].value_counts().to_dict()
        {'train': 7, 'test': 2, 'val': 1}
    """
    parts = set(cases["split"])
    if "" in parts and len(parts) > 1:
        raise ValueError(
            f"{(cases['split'] == '').sum()} of {len(cases)} cases are of no split; expected one "
            "for every case, or for none."
        )
    if parts == {""}:
        cases = split_together(cases, {"train": 0.7, "val": 0.1, "test": 0.2})
    elif parts == {"train", "test"}:
        train = split_together(cases[cases["split"] == "train"], {"train": 7, "val": 1})
        cases = pd.concat([train, cases[cases["split"] == "test"]])
    if missing := {"train", "val", "test"} - set(cases["split"]):
        raise ValueError(
            f"{len(cases)} cases, of which none is of split {' or '.join(sorted(missing))}; "
            "expected some in train, val and test each."
        )
    return cases


def in_folds(cases, folds, fold, seed=0) -> pd.DataFrame:
    """Cases in train and test by whole groups: one of `folds` parts is tested, the others train.

    Over all folds every group is tested once. Cases of a split `test` are held out for the end:
    they are left out. Domains that share groups, such as contrasts of a patient, are one.

    Args:
        cases: case table.
        folds: number of parts.
        fold: which of them is tested, from 0.
        seed: of the order of groups. Default 0.

    Returns:
        A copy with a new `split` column, in the order of the table.

    Raises:
        ValueError: no such fold, or too few groups for so many.

    Example:
        >>> from keras_meduda.data.cases import case_table
        >>> cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(6)])
        >>> parts = [in_folds(cases, 3, i) for i in range(3)]
        >>> sorted(c for p in parts for c in p["case"][p["split"] == "test"])
        ['0', '1', '2', '3', '4', '5']
    """
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"--fold {fold}: expected 0 to {folds - 1}, as --folds {folds} has them.")
    held = cases["split"] == "test"
    if held.any():
        print(f"--folds {folds}: {held.sum()} of {len(cases)} cases, of split 'test', are left out")
    cases = cases[~held]
    parts = split_together(cases, {str(i): 1 for i in range(folds)}, seed)["split"]
    for domain, rows in cases.groupby("domain"):
        if parts[rows.index].nunique() < folds:
            raise ValueError(
                f"--folds {folds}: {len(rows)} cases of {rows['group'].nunique()} groups in domain "
                f"{domain!r} leave a fold without a case; expected fewer folds."
            )
    return cases.assign(split=parts.map(lambda part: "test" if part == str(fold) else "train"))


def unseen(tested, learnt) -> pd.DataFrame:
    """The cases to be tested without those whose group, such as the patient, has trained.

    Prints how many are left out, where there are any.

    Args:
        tested: case table.
        learnt: the cases that train or choose.

    Raises:
        ValueError: no case is left.

    Example:
        >>> from keras_meduda.data.cases import case_table
        >>> flair, t2 = ([{"case": i, "domain": d, "image": "a.nii"} for i in "ab"] for d in "ft")
        >>> unseen(case_table(t2), case_table(flair[:1]))["case"].tolist()
        1 of 2 cases of t are not tested: their groups train
        ['b']
    """
    known = tested["group"].isin(set(learnt["group"]))
    name, count = ", ".join(sorted(set(tested["domain"]))), len(tested)
    if known.all():
        raise ValueError(
            f"{name or 'the tested domain'}: {count} cases with a mask, none of a group that does "
            "not train; expected one or more. A case without a group is one of its own name."
        )
    if known.any():
        print(f"{known.sum()} of {count} cases of {name} are not tested: their groups train")
    return tested[~known]
