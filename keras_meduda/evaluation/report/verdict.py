"""A report in two or three plain sentences, and what to look at before its figures are believed."""

import numpy as np
import pandas as pd

from keras_meduda.evaluation.report.tables import counted, mean_over_classes, p_in_words
from keras_meduda.evaluation.report.views import words

AGREEMENT = (  # from this mean Dice on, what is said of the masks
    (0.9, "agree closely with the reference"),
    (0.75, "agree with the reference in most places"),
    (0.5, "agree with the reference in part"),
    (0.1, "disagree with the reference in most places"),
    (0.0, "have next to nothing in common with the reference"),
)
POOR, NOTHING = 0.5, 0.1  # Dice of a case to look at, and of a class that is not found
LEARNT = 0.2  # Dice of a class on its own test cases below which a source counts as not learnt
FEW = 6  # groups, as for a paired test


def verdict(main: str, frame: pd.DataFrame, comparison: dict | None = None) -> list[str]:
    """What an evaluation found, in two or three sentences.

    Args:
        main: the method that it is about.
        frame: its table of case metrics.
        comparison: as `tables.compare` gives it, of an adaptation.
    """
    means = mean_over_classes(frame).sort_values("dice", kind="stable")
    dice, worst, groups = means["dice"].mean(), means.iloc[0], frame["group"].nunique()
    said = [_gain(comparison)] if comparison else []
    agreement = next(text for least, text in AGREEMENT if dice >= least)
    of = f"The masks of “{words(main)}” {agreement}, mean Dice {_percent(dice)}"
    classes = frame.groupby("class", sort=False)["dice"].mean()
    if len(classes) > 1:
        of += f", lowest in {classes.idxmin()} with {_percent(classes.min())}"
    said.append(f"{of}.")
    poor = int((means["dice"] < POOR).sum())
    last = f"The worst of {len(means)} cases is {worst['case']} with {_percent(worst['dice'])}"
    last += f", {poor} {'lies' if poor == 1 else 'lie'} below {_percent(POOR)}" if poor else ""
    few = f"{counted(groups, 'group')} {'says' if groups == 1 else 'say'} little about others"
    if len(means) == 1:
        last = few
    elif groups < FEW:
        last += f"; {few}"
    return [*said, f"{last}."]


def label_free_verdict(lines: list[str], main: str, source: dict | None) -> list[str]:
    """What can be said of predictions that no label scores, in two or three sentences.

    Args:
        lines: what stands out, as `label_free.suspicious` gives it.
        main: the method that is described.
        source: method → table of case metrics on the source's own test cases, where there are any.
    """
    said = ["No accuracy can be given: none of these cases has a label."]
    if source:
        dice = {name: mean_over_classes(frame)["dice"].mean() for name, frame in source.items()}
        scores = ", ".join(f"{words(name)} {_percent(value)}" for name, value in dice.items())
        said.append(f"On the source's own test cases, which have some, the mean Dice is: {scores}.")
    else:
        said.append("No labelled case of the source is there to tell whether its task was learnt.")
    if lines:
        things = "One thing stands" if len(lines) == 1 else f"{len(lines)} things stand"
        said.append(f"{things} out in the predictions of {words(main)}, see below.")
    else:
        said.append(
            f"Areas and certainty of {words(main)} are as one would expect; only an eye or labels "
            "can tell more."
        )
    return said


def alarms(main: str, frame: pd.DataFrame) -> list[str]:
    """What is so poor in an evaluation that something is broken rather than hard, a sentence each.

    Args:
        main: the method that is looked at.
        frame: its table of case metrics.
    """
    found = []
    for name, rows in frame.groupby("class", sort=False):
        if (dice := rows["dice"].mean()) < NOTHING:
            found.append(
                f"{name}: the mean Dice of {words(main)} is {_percent(dice)}, next to nothing. Is "
                "the task that of these masks, and has the training learnt?"
            )
        missed = int((rows["prediction_empty"] & ~rows["reference_empty"].astype(bool)).sum())
        if missed > 0.1 * len(rows):
            found.append(f"{name}: found nowhere in {missed} of {len(rows)} cases that have it.")
    return found


def source_alarms(source: dict | None, shares: dict | None = None) -> list[str]:
    """Whether the source itself was learnt, and whether an adaptation has forgotten it.

    A class counts as not learnt below a Dice of 0.2, or of 0.1 more than a mask of the whole image
    has, 2s / (1 + s) for a class that covers the share s.

    Args:
        source: method → table of case metrics on the source's own test cases; "source_only", or
            else the first, has learnt on the source; the last is deployed.
        shares: of the image by class, as `label_free.reference_shares` gives them. Default: not
            looked at.
    """
    if not source:
        return []
    first = "source_only" if "source_only" in source else next(iter(source))
    last = list(source)[-1]
    found = []
    for name, dice in source[first].groupby("class", sort=False)["dice"].mean().items():
        share = float(np.mean(shares[name])) if shares else 0.0
        if dice < max(LEARNT, 2 * share / (1 + share) + 0.1):
            found.append(f"{name} {_percent(dice)}")
    if found:
        return [
            f"{words(first)} did not learn the source: Dice of {', '.join(found)} on the source's "
            "own test cases. Train it longer, or look at its masks; the target can wait."
        ]
    learnt, kept = (mean_over_classes(source[name])["dice"].mean() for name in (first, last))
    if kept < learnt - 0.1:
        return [
            f"{words(last)} has forgotten part of the source: mean Dice {_percent(kept)} there, "
            f"{_percent(learnt)} with {words(first)}."
        ]
    return []


def _gain(comparison):
    """What the adaptation changed on the target."""
    dice, decided = (comparison["mean"][key] for key in ("dice", "decided"))
    before, after = dice["source_only"], dice[decided["run"]]
    test = decided["vs_source_only"]
    if test["p_value"] == 1 and "reason" in test:  # case by case the same: source only is kept
        return f"On the target the mean Dice stays as source only has it, {_percent(before)}."
    p, groups = test["p_value"], counted(test["groups"], "group")
    if p is None:
        sure = f"; {groups}, too few for a test"
    elif p < 0.05:
        sure = f" (p {p_in_words(p)}, {groups})"
    else:
        sure = f"; chance alone may do that (p {p_in_words(p)}, {groups})"
    oracle = ""
    if "oracle" in dice:
        oracle = f"; the target's own labels give {_percent(dice['oracle'])}"
    return (
        f"On the target the adaptation {'raised' if after >= before else 'lowered'} the mean Dice "
        f"from {_percent(before)} to {_percent(after)}{sure}{oracle}."
    )


def _percent(share):
    return f"{100 * share:.1f} %"
