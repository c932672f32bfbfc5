"""The page of the shift benchmark: what its table says, in tables and a picture."""

import matplotlib
import numpy as np
from shift_cases import SHIFTS
from shift_findings import (
    SMALL_GAP,
    aims,
    decisions,
    few_labels,
    promised,
    promises,
    sentences,
)
from tables import HERE, KEY, markdown, read, spread

from keras_meduda.data.io import replacing

COLUMNS = (*KEY, "start")  # random weights, or the name of the pretrained ones
METHODS = (
    "source_only", "oracle", "robust", "guard", "kl_distillation", "few_5", "few_10", "few_20",
    "few_source_5", "few_source_10", "few_source_20", "target_statistics", "histogram_matching",
    "source_free", "category_regularization",
)  # fmt: skip
PUBLISHED = (  # of fundus.csv
    "source_only", "oracle", "beal", "mean_teacher", "category_regularization",
    "category_regularization_styled",
)  # fmt: skip


def page(budget):
    """The lines of shifts.md; makes its pictures as well.

    Args:
        budget: what every training was given, in words.
    """
    table = read("shifts", COLUMNS).astype({"value": float, "minutes": float})
    yield from (
        "# Shifts: what adaptation is worth",
        "",
        "Made from `shifts.csv` by `python benchmarks/shifts.py` (2 cores, no GPU); do not edit.",
        "",
        budget.strip().replace("\n", " "),
        "",
        "Mean Dice of the classes over the target's test cases. Of a method: points gained over "
        "source only and, in brackets, the share of the gap that they close, (adapted − source "
        "only) / (oracle − source only), by seed; mean over seeds ± half their range. † marks a "
        f"gap below {SMALL_GAP:.0f} points, where a share means nothing, ‡ two domains of which a "
        "row, this way or the other, was seen before a rule of the guard or of the twins was "
        "thought of: no clean test of it.",
    )
    for (network, start), own in table.groupby(["network", "start"], sort=False):
        dice = own[own["metric"] == "dice"]
        dice = dice.groupby(["source", "target", "split", "method", "seed"])["value"].mean()
        found = [(shift, scores) for shift in SHIFTS if (scores := of_shift(dice, shift))]
        results = [(shift, scores) for shift, scores in found if not shift.choosing]
        choosing = [(shift, scores) for shift, scores in found if shift.choosing]
        yield from ("", f"## {network} from {start} weights", "", *shift_table(results))
        yield from sentences(results, promised(own, [shift for shift, _ in results]))
        if results:
            name = f"shifts{'' if start == 'random' else f'_{start}'}.png"
            picture(results, name)
            yield from ("", f"![Dice before and after, a line a shift]({name})")
        if choosing:
            yield from ("", "Recipes and thresholds are chosen on these: they are no results.", "")
            yield from shift_table(choosing)
        spent = own.drop_duplicates(list(COLUMNS)).groupby("method")["minutes"].mean()
        said = promised(own, [shift for shift, _ in results])
        yield from aims(results, choosing, said, spent)
        yield from decisions(own, [shift for shift, _ in results])
        yield from promises(own, [shift for shift, _ in results])
        yield from few_labels(results)
        cells = [(method, f"{spent[method]:.1f}") for method in METHODS if method in spent]
        yield from ("", *markdown(("method", "minutes a training, on busy cores"), cells))
    yield from uda_clr()


def uda_clr():
    """The lines of UDA_CLR and what it is compared with, on the shifts of fundus.csv."""
    table = read("fundus", COLUMNS).astype({"value": float})
    own = (table["network"] == "deeplabv3plus_mobilenetv2") & table["method"].isin(PUBLISHED)
    dice = table[own & (table["metric"] == "dice")]
    keys = ["source", "target", "split", "method", "seed"]
    for start, rows in dice.groupby("start", sort=False):
        means = rows.groupby(keys)["value"].mean()
        found = [(shift, scores) for shift in SHIFTS if (scores := of_shift(means, shift))]
        yield from (
            "",
            f"## UDA_CLR: DeepLabV3+ from {start} weights",
            "",
            "From `fundus.csv`: 128 × 128, 400 steps of 8 a domain, each method from the start. "
            "`category_regularization` is the published form, `_styled` that of the script.",
            "",
            *shift_table(found),
        )


def shift_table(found):
    """The Markdown table of shifts and methods; those with a few labels have a table of theirs."""
    columns = dict.fromkeys((*METHODS[2:], *(m for _, scores in found for m in scores)))
    methods = [m for m in columns if m not in METHODS[:2] and any(m in s for _, s in found)]
    methods = [m for m in methods if not m.startswith("few_")]
    columns = ("shift", "seeds", "source only", "oracle", *methods)
    return markdown(columns, (cells_of(shift, scores, methods) for shift, scores in found))


def of_shift(dice, shift):
    """Dice by method and seed, `{method: {seed: Dice}}`."""
    scores = {}
    for (source, target, split, method, seed), value in dice.items():
        if (source, target, split) == (shift.source, shift.target, shift.split):
            scores.setdefault(method, {})[seed] = value
    return scores


def cells_of(shift, scores, methods):
    """One line of a table."""
    before, best = scores.get("source_only", {}), scores.get("oracle", {})
    gaps = [100 * (best[seed] - before[seed]) for seed in best if seed in before]
    small = bool(gaps) and np.mean(gaps) < SMALL_GAP
    yield shift.name + (" †" if small else "") + (" ‡" if shift.gave_rule else "")
    yield ", ".join(before)
    for own in (before, best):
        yield spread(list(own.values())) if own else "–"
    for method in methods:
        own = scores.get(method, {})
        points = [100 * (own[seed] - before[seed]) for seed in own if seed in before]
        shares = [
            100 * (own[seed] - before[seed]) / (best[seed] - before[seed])
            for seed in own
            if seed in before and seed in best
        ]
        share = f" ({spread(shares, 0)} %)" if shares and not small else ""
        yield f"{spread(points, 1)}{share}" if points else "–"


def readme():
    """The table of results that README.md shows: source only, what the guard chose, the oracle."""
    table = read("shifts", COLUMNS).astype({"value": float})
    dice = table[table["metric"] == "dice"]
    keys = ["network", "start", "source", "target", "split", "method", "seed"]
    dice = dice.groupby(keys)["value"].mean()
    rows = []
    for network, start in dict.fromkeys(zip(table["network"], table["start"], strict=True)):
        for shift in SHIFTS:
            scores = of_shift(dice[network, start], shift)
            seeds = [seed for seed in scores.get("guard", {}) if seed in scores["source_only"]]
            if shift.choosing or not seeds:
                continue
            shown = [
                f"{100 * np.mean([scores[m][s] for s in seeds if s in scores[m]]):.1f}"
                if scores.get(m) else "–"
                for m in ("source_only", "guard", "oracle")
            ]  # fmt: skip
            rows.append((shift.name, start, *shown, len(seeds)))
    columns = ("shift", "start", "source only", "as the guard chose", "oracle", "seeds")
    return list(markdown(columns, rows))


def write_readme():
    """Sets the table between its marks in README.md."""
    path, mark = HERE.parent / "README.md", "<!-- {}benchmarks/shifts.csv -->\n"
    before, rest = path.read_text().split(mark.format(""))
    after = rest.split(mark.format("/"))[1]
    table = "\n".join(readme()) + "\n"
    with replacing(path) as unfinished:
        unfinished.write_text(before + mark.format("") + table + mark.format("/") + after)


def picture(results, name):
    """Dice before and after, a line a shift."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    marks = {"source_only": ("o", "none"), "oracle": ("|", "black"), "guard": ("o", "C0")}
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.3 * len(results)))
    for line, (_, scores) in enumerate(reversed(results)):
        shown = {m: scores[m] for m in marks if m in scores}
        seeds = set.intersection(*map(set, shown.values()))  # those that all of them have
        means = {m: np.mean([own[seed] for seed in seeds]) for m, own in shown.items() if seeds}
        ends = [means[m] for m in ("source_only", "guard") if m in means]
        axes.plot(ends, [line] * len(ends), color="C0", linewidth=1)
        for method, mean in means.items():
            mark, colour = marks[method]
            edge = "C0" if mark == "o" else None
            axes.scatter(mean, line, s=50, c=colour, marker=mark, edgecolors=edge)
    axes.set_yticks(range(len(results)), [shift.name for shift, _ in reversed(results)])
    axes.set_xlabel("Dice: ○ source only, ● as the guard chose, | oracle; mean of seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    with replacing(HERE / name) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    pyplot.close(figure)
