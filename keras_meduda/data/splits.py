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
