"""What the table of the shift benchmark says of gains, decisions and predictions."""

import numpy as np
from scipy.stats import spearmanr
from tables import markdown

SMALL_GAP = 3.0  # points of Dice; below, a share of the gap means nothing
FEW = ("5", "10", "20")  # labelled target cases


def sentences(results, predicted):
    """The lines that say what the table of results says; none where the guard made no decision."""
    gains, shares, alone, small = {}, [], {}, []
    for shift, scores in results:
        before, best = scores.get("source_only", {}), scores.get("oracle", {})
        for seed, dice in scores.get("guard", {}).items():
            gap = 100 * (best[seed] - before[seed]) if seed in best else 0.0
            gains[shift.name, seed] = gain = 100 * (dice - before[seed])
            alone[shift.name, seed] = 100 * (scores["robust"][seed] - before[seed])
            if gap >= SMALL_GAP:
                shares.append((gap, 100 * gain / gap, 100 * alone[shift.name, seed] / gap))
            else:
                small.append(gain)
    if not gains:
        return
    (worst, _), (best, _), (lost, _) = (
        min(gains, key=gains.get), max(gains, key=gains.get), min(alone, key=alone.get)
    )  # fmt: skip
    low, high, fall = min(gains.values()), max(gains.values()), min(alone.values())
    better = sum(gain > 0.1 for gain in gains.values())
    worse = sum(gain < -0.1 for gain in gains.values())
    yield from (
        "",
        f"* The guard's choice is above source only in {better} of {len(gains)} trainings, below "
        f"it in {worse}, and within 0.1 points in {len(gains) - better - worse}.",
    )
    if len(gains) > 1:
        yield f"* It gains most on {best} ({high:+.1f} points) and least on {worst} ({low:+.1f})."
    if fall < 0:
        yield f"* The adapted network alone would lose most on {lost} ({fall:+.1f} points)."
    if shares:
        gap, closed, without = np.mean(shares, axis=0)
        yield (
            f"* Where the gap has {SMALL_GAP:.0f} points or more ({len(shares)} trainings, mean "
            f"{gap:.1f} points) the guard's choice closes {closed:.0f} % of it, the adapted "
            f"network {without:.0f} %."
        )
    if small:
        yield (
            f"* Where it has fewer ({len(small)} trainings) the guard's choice changes Dice by "
            f"{min(small):+.1f} to {max(small):+.1f} points."
        )
    if predicted:
        errors = {f"{p[1]} of {p[0]}": abs(p[2] - p[3]) for p in predicted}
        mean, worst = np.mean(list(errors.values())), max(errors, key=errors.get)
        yield (
            f"* The Dice that is predicted for a data set is off by {mean:.3f} in the mean of "
            f"{len(errors)} classes and shifts, at most by {errors[worst]:.3f} ({worst})."
        )


def aims(results, choosing, predicted, minutes):
    """The lines that say which of the aims are met; none where the guard made no decision."""
    gains, closed, null, clean = [], [], [], []
    for shift, scores in (*results, *choosing):
        before, best = scores.get("source_only", {}), scores.get("oracle", {})
        for seed, dice in scores.get("guard", {}).items():
            gain = 100 * (dice - before[seed])
            if "half" in shift.source:
                null.append(gain)
            elif not shift.choosing:
                gains.append(gain)
                gap = 100 * (best[seed] - before[seed]) if seed in best else 0.0
                share = [100 * gain / gap] if gap >= SMALL_GAP else []
                closed += share
                clean += [] if shift.gave_rule else share
    if not gains:
        return
    share = np.mean(closed) if closed else float("nan")
    worst = min(gains)
    rows = [("worst decision beside source only, points", f"{worst:+.1f}", "-1", worst >= -1)]
    if null:
        most = max(null, key=abs)
        rows.append(
            ("greatest change where nothing shifts, points", f"{most:+.1f}", "±1", abs(most) <= 1)
        )
    rows += [
        (f"gap closed where it is {SMALL_GAP:.0f} points, %", f"{share:.0f}", "60", share >= 60),
    ]
    if clean:
        share = np.mean(clean)
        rows.append(("the same without shifts of ‡, %", f"{share:.0f}", "60", share >= 60))
    off, covered = np.array(
        [(abs(p[2] - p[3]), p[5] >= 0.9) for p in predicted] or [(np.nan, np.nan)]
    ).mean(axis=0)
    rows += [] if not predicted else [
        ("predicted Dice of a data set, mean error", f"{off:.3f}", "0.05", off <= 0.05),
        ("lines whose intervals cover 90 %, %", f"{100 * covered:.0f}", "80", covered >= 0.8),
    ]
    cost = 100 * minutes["guard"] / minutes["robust"]
    rows.append(("time of a decision beside its adaptation's, %", f"{cost:.0f}", "20", cost <= 20))
    cells = ((*row[:3], "yes" if row[3] else "no") for row in rows)
    yield from ("", *markdown(("aim", "measured", "wanted", "met"), cells))


def decisions(table, shifts):
    """The lines that tell how good the guard's decisions were; none where it made none."""
    chosen, rows, worst = table[table["method"] == "guard"], [], []
    for shift in shifts:
        for seed, own in rows_of(chosen, shift).groupby("seed"):
            values = own[own["class"] == ""].set_index("metric")["value"]
            shares = [name.removeprefix("dice_at_") for name in values.index if "dice_at" in name]
            dice = np.array([values[f"dice_at_{a}"] for a in shares])
            taken = dice[[float(a) for a in shares].index(values["a"])]
            ranks = [
                spearmanr([values[f"{score}_at_{a}"] for a in shares], dice).statistic
                for score in ("s1", "s2", "s3")
            ]
            worst.append((100 * (taken - dice[0]), 100 * (dice.max() - taken)))
            cells = (f"{v:.3f}" for v in (dice[0], taken, dice.max()))
            ranks = ("–" if np.isnan(rank) else f"{rank:.1f}" for rank in ranks)
            rows.append((shift.name, seed, f"{values['a']:g}", *cells, *ranks))
    if not rows:
        return
    gains, regrets = np.array(worst).T
    yield from (
        "",
        "**The guard's decisions.** Dice at a = 0, at the a it chose and at the best of the five, "
        "which its labels tell; rank correlation of each score with Dice over the five. a is the "
        "share of the way from source only to adapted; S1 to S3 are the scores of docs/adapt.md. "
        f"{(gains < -1).sum()} of {len(rows)} decisions are below source only by more than one "
        f"point; mean regret {regrets.mean():.1f} points.",
        "",
    )
    columns = ("shift", "seed", "a", "source only", "chosen", "best", "S1", "S2", "S3")
    yield from markdown(columns, rows)


def promised(table, shifts):
    """Shift, class, predicted and true Dice, mean error by case and coverage of each line."""
    chosen, found = table[table["method"] == "guard"], []
    for shift in shifts:
        own = rows_of(chosen, shift)
        means = own.groupby(["class", "metric"], sort=False)["value"].mean().unstack()
        if "predicted_dice" not in means:
            continue
        columns = ["predicted_dice", "dice", "predicted_error", "predicted_covered"]
        for name, mean in means[means["predicted_dice"].notna()].iterrows():
            found.append((shift.name, name, *mean[columns]))
    return found


def promises(table, shifts):
    """The lines that tell how far predicted Dice was off; none where none was predicted."""
    rows = promised(table, shifts)
    if not rows:
        return
    off, covered = np.array([(abs(row[2] - row[3]), row[5]) for row in rows]).T
    rows = [(*r[:2], *(f"{v:.3f}" for v in r[2:5]), f"{100 * r[5]:.0f} %") for r in rows]
    yield from (
        "",
        "**Predicted Dice** of what the guard chose, made without target labels; its mean absolute "
        "error by case, and the share of cases whose true Dice lies in the 90 % interval. The mean "
        f"of a data set is off by {off.mean():.3f} on average; intervals cover 90 % or more in "
        f"{(covered >= 0.9).sum()} of {len(rows)} lines.",
        "",
    )
    columns = ("shift", "class", "predicted", "true", "error by case", "covered")
    yield from markdown(columns, rows)


def few_labels(results):
    """The lines that tell what a few labelled target cases are worth; none where none were used."""
    rows = []
    for shift, scores in results:
        adapted = _by_count(scores, "guard", "few")
        alone = _by_count(scores, "source_only", "few_source")
        rows += [(shift.name, "the guard's choice", *_cells(adapted), "")] if adapted else []
        if alone:
            worth = _worth(alone, _by_count(scores, "guard", "few_source").get("0"))
            rows.append((shift.name, "source only", *_cells(alone), worth))
    if rows:
        yield from (
            "",
            "**A few labels.** Dice by the number of labelled target cases, each of another "
            "patient, drawn at random by the seed; all is the oracle. They fit the guard's choice, "
            "or source only without any adaptation. The last column: how many labels alone reach "
            "what the guard's choice has without a label.",
            "",
            *markdown(("shift", "fitted", "0", *FEW, "all", "adaptation is worth"), rows),
        )


def _by_count(scores, start, few):
    """Dice by the number of labels, mean over the seeds of all; empty where no few were used."""
    names = {"0": start, **{count: f"{few}_{count}" for count in FEW}, "all": "oracle"}
    found = {count: scores[name] for count, name in names.items() if name in scores}
    if not set(FEW) & set(found):
        return {}
    seeds = set.intersection(*map(set, found.values()))
    if "0" not in found or not seeds:
        return {}
    return {count: np.mean([own[seed] for seed in seeds]) for count, own in found.items()}


def _cells(dice):
    return [f"{dice[count]:.3f}" if count in dice else "–" for count in ("0", *FEW, "all")]


def _worth(alone, adapted):
    """The fewest labels alone that reach a Dice, in words; `None` is a Dice that is not known."""
    if adapted is None:
        return "–"
    if adapted <= alone["0"]:
        return "no label"
    tried = [count for count in FEW if count in alone]
    enough = [count for count in tried if alone[count] >= adapted]
    return f"{enough[0]} labels" if enough else f"more than {tried[-1]} labels"


def rows_of(table, shift):
    """The rows of one shift."""
    names = table["source"], table["target"], table["split"]
    return table[
        (names[0] == shift.source) & (names[1] == shift.target) & (names[2] == shift.split)
    ]
