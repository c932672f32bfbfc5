"""The shift benchmark: what each method of adaptation is worth on every shift that is at hand.

MEDUDA_DATA=… python benchmarks/shifts.py                     (completes shifts.csv and its page)
MEDUDA_DATA=… python benchmarks/shifts.py 0 nuc_f256-nuc_f360 (only rows with these words)
MEDUDA_DATA=… python benchmarks/shifts.py --page              (writes shifts.md from shifts.csv)

One budget for all. Pictures: AERUNet, its decoder's filters 8…128, with an encoder MobileNetV2 from
ImageNet or its own from random weights, at 128 × 128, 400 steps of 8 (a domain);
vessels on patches of 256 × 256 of 512 × 512, steps of 4. Volumes: AERUNet with filters 8…64 on
patches of 48 × 48 × 48, 1,000 steps of 2. Every stage takes as many steps; an adaptation goes on
from source only. Weights of the last step. Target labels are read by the evaluation, and by the
oracle, alone. In `brats_contrasts` the training subjects of source and target are the same eight;
of the transgenic mice three train without labels and three are tested.
"""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from shift_cases import SHIFTS, WORK
from tables import (
    HERE,
    KEY,
    imagenet_mobilenetv2,
    main,
    markdown,
    mean_scores,
    read,
    spread,
    timed,
    trained,
)

import keras_meduda as km
from keras_meduda.data.io import read_image, replacing
from keras_meduda.data.pipeline import prepare
from keras_meduda.evaluation.confidence import FEWEST, calibrate, promised
from keras_meduda.evaluation.guard import Way
from keras_meduda.evaluation.target_statistics import with_target_statistics
from keras_meduda.experiment.few_labels import PART, few_labels
from keras_meduda.experiment.guarding import guard
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe, Stage, supervised
from keras_meduda.experiment.styles import Styles
from keras_meduda.recipes import adapt, aerunet_kd, combination, source_free

COLUMNS = (*KEY, "start")  # random weights, or the name of the pretrained ones
NETWORKS = {  # by their start: flags of the recipe; volumes start from random weights alone
    ("aerunet_mobilenetv2", "imagenet"): {"network": "AERUNet", "backbone": "mobilenetv2"},
    ("aerunet", "random"): {"network": "AERUNet"},
}
SMALL_GAP = 3.0  # points of Dice; below, a share of the gap means nothing
METHODS = (
    "source_only", "oracle", "robust", "guard", "kl_distillation", "few_5", "few_10", "few_20",
    "target_statistics", "histogram_matching", "source_free", "category_regularization",
)  # fmt: skip
# Besides `kl_distillation`, between which the recipe of `meduda adapt` was chosen.
CANDIDATES = {
    "strong_guarded": partial(km.methods.KLDistillation, mode="strong", ema=0.99, guard=True),
    "masked_guarded": partial(km.methods.MaskedConsistency, guard=True),
}


def recipe_of(shift, data, network) -> Recipe:
    """The recipe of `meduda adapt`, with the other methods as further stages."""
    flags = {**NETWORKS[network], **shift.flags, "cases": Path("cases.csv"), "oracle": True}
    if "backbone" in flags:
        flags["weights"] = str(imagenet_mobilenetv2())
    ours = adapt.recipe(adapt.Flags(**flags), data)
    shared = {name: value for name, value in flags.items() if name != "network"}
    thesis = aerunet_kd.recipe(aerunet_kd.Flags(**shared), data)
    styled = replace(ours.stages["adapted"], target_styles=0, source_styles=4)
    other = combination.Flags(method="category_regularization", **flags)
    category = combination.recipe(other, data).stages["adapted"]
    category = replace(category, batches={**category.batches, "boundary": True})
    matched = Stage(
        supervised,
        compile=ours.stages["source_only"].compile,
        source_styles=ours.stages["adapted"].source_styles,
        by_bands=False,
        batches={"style_share": 1.0},
    )
    stages = {
        "source_only": ours.stages["source_only"],
        "oracle": ours.stages["oracle"],
        "robust": ours.stages["adapted"],
        "kl_distillation": thesis.stages["adapted"],
        "histogram_matching": matched,
        "category_regularization": replace(
            category, batches={**category.batches, "boundary": True}
        ),
        **{name: replace(styled, method=_overlaps(make)) for name, make in CANDIDATES.items()},
    }
    return replace(ours, stages=stages)


def _overlaps(make):
    """A method of a network and its batches, which tell whether classes overlap."""
    return lambda network, batches: make(network, batches.task.overlapping)


def run_of(recipe, data, folder, method, seed):
    """The run of a method, and its minutes."""
    if method in recipe.stages:
        return trained(recipe, data, method, folder, seed)
    source, _ = trained(recipe, data, "source_only", folder, seed)
    if method == "target_statistics":
        images = list(data.parts["target"]["image"])
        estimate = partial(with_target_statistics, source, images, seed)
        return timed(folder / f"{method}-{seed}", estimate)
    budget = {"steps": recipe.steps, "batch_size": recipe.batch_size}
    flags = source_free.Flags(run=source.path, images=Path("cases.csv"), out=folder, **budget)
    free = source_free.recipe(flags, data)
    free = replace(free, stages={"source_free": free.stages["adapted"]})
    return trained(free, data, method, folder, seed)


def guarded(recipe, data, folder, seed):
    """What the guard chooses, minutes, and what it went by beside the truth at every share a.

    The truth is read for the benchmark alone, after the decision.
    """
    options, store = Options(out=folder / f"guard-{seed}", seed=seed), folder / "prepared"
    runs = {
        "source_only": trained(recipe, data, "source_only", folder, seed)[0],
        "adapted": trained(recipe, data, "robust", folder, seed)[0],
    }
    stage, first, styles = recipe.stages["robust"], runs["source_only"], Styles(store, seed)
    if stage.source_styles:  # decided as the adaptation has
        parts = [
            prepare(data.parts[part], data.task, first.preprocessing, store, part == "source")
            for part in ("source", "target")
        ]
        styles.of_source(first, *parts, 1, stage.by_bands)
    decision, minutes = timed(options.out, lambda: guard(data, options, runs, styles))
    values = [("", "a", decision.a, "1")]
    test = data.tests["target, test"]
    seen = data.parts["target"]["image"].iloc[:: max(1, len(data.parts["target"]) // 32)]
    images = map(read_image, seen)
    inputs = [first.preprocessing.apply(image.array, image.spacing) for image in images]
    way = Way(*runs.values(), inputs, seed)
    for row in decision.scores.to_dict("records"):
        frame = km.evaluate(way.at(row["a"]), test, data.task)
        values.append(("", f"dice_at_{row['a']:g}", frame["dice"].mean(), "1"))
        values += [
            ("", f"{score}_at_{row['a']:g}", row[score], "1") for score in ("s1", "s2", "s3")
        ]
    held = data.tests["source, test"]
    if held["group"].nunique() >= FEWEST:
        values += kept_promises(decision.run, held, test, data.task)
    return decision.run, minutes, values


def with_few(recipe, data, folder, seed, count):
    """What the guard chooses, and so many labelled target cases, a patient each."""
    if not (folder / f"guard-{seed}" / "guarded" / "network.keras").exists():
        guarded(recipe, data, folder, seed)
    runs = [km.load(folder / name) for name in (f"guard-{seed}/guarded", f"robust-{seed}")]
    drawn = data.parts["oracle"].sample(frac=1, random_state=seed).drop_duplicates("group")
    data = replace(data, parts={**data.parts, PART: drawn.iloc[:count]})
    options = Options(out=folder / f"few_{count}-{seed}", seed=seed)
    fit = partial(few_labels, recipe, data, options, *runs)
    (run, _), minutes = timed(options.out, fit)
    return run or runs[0], minutes


def kept_promises(run, held, test, task):
    """Predicted Dice by class, its mean absolute error by case, and how often it was within."""
    said = promised(run, calibrate(run, held), test["image"], test["case"])
    frame = km.evaluate(run, test, task)[["case", "class", "dice"]]
    both = said.merge(frame, on=["case", "class"], suffixes=("", "_true"))
    true = both.pop("dice_true")
    both["error"] = (both["dice"] - true).abs()
    both["covered"] = true.between(both["low"] - 1e-9, both["high"] + 1e-9).astype(float)
    means = both.drop(columns="case").groupby("class", sort=False).mean()
    for name, row in means.iterrows():
        for column, value in row.items():
            yield name, f"predicted_{column}", value, "1"


def scored(shift, network, method, seed):
    """Metrics of the target's test cases, Dice on the source's, and the minutes of the training."""
    data = shift.data()
    folder = WORK / "-".join(network) / f"{shift.source}-{shift.target}-{shift.split}"
    recipe, further = recipe_of(shift, data, network), []
    if method == "guard":
        run, minutes, further = guarded(recipe, data, folder, seed)
    elif method.startswith("few_"):
        run, minutes = with_few(recipe, data, folder, seed, int(method.removeprefix("few_")))
    else:
        run, minutes = run_of(recipe, data, folder, method, seed)
    frames = {name: km.evaluate(run, cases, data.task) for name, cases in data.tests.items()}
    for name, frame in frames.items():
        frame.to_csv(folder / f"{method}-{seed}" / f"{name.split(',')[0]}.csv", index=False)
    values = mean_scores(frames["target, test"], data.task.unit)
    if "source, test" in frames:
        own = frames["source, test"].groupby("class", sort=False)["dice"].mean()
        values += [(name, "dice_on_source", dice, "1") for name, dice in own.items()]
    return [*values, *further], minutes


def wanted():
    """Row sets in the order in which they are made."""
    methods = (*METHODS, *CANDIDATES)
    for seed, network, shift, method in itertools.product((0, 1, 2), NETWORKS, SHIFTS, methods):
        if method in CANDIDATES and not shift.choosing:
            continue
        if "backbone" in NETWORKS[network] and len(shift.flags["size"]) == 3:
            continue
        name, start = network
        key = (name, shift.source, shift.target, shift.split, method, str(seed), start)
        yield key, partial(scored, shift, network, method, seed)


def page():
    """The lines of shifts.md; makes its picture as well."""
    table = read("shifts", COLUMNS).astype({"value": float, "minutes": float})
    yield from (
        "# Shifts: what adaptation is worth",
        "",
        "Made from `shifts.csv` by `python benchmarks/shifts.py` (2 cores, no GPU); do not edit.",
        "",
        __doc__.split("\n\n")[2].strip().replace("\n", " "),
        "",
        "Mean Dice of the classes over the target's test cases. Of a method: points gained over "
        "source only and, in brackets, the share of the gap that they close, (adapted − source "
        "only) / (oracle − source only), by seed; mean over seeds ± half their range. † marks a "
        f"gap below {SMALL_GAP:.0f} points, where a share means nothing.",
    )
    for network, start in NETWORKS:
        own = table[(table["network"] == network) & (table["start"] == start)]
        dice = own[own["metric"] == "dice"]
        dice = dice.groupby(["source", "target", "split", "method", "seed"])["value"].mean()
        found = [(shift, scores) for shift in SHIFTS if (scores := of_shift(dice, shift))]
        results = [(shift, scores) for shift, scores in found if not shift.choosing]
        choosing = [(shift, scores) for shift, scores in found if shift.choosing]
        yield from ("", f"## {network} from {start} weights", "", *shift_table(results))
        if results:
            name = f"shifts{'' if start == 'random' else f'_{start}'}.png"
            picture(results, name)
            yield from ("", f"![Dice before and after, a line a shift]({name})")
        if choosing:
            yield from ("", "Recipes and thresholds are chosen on these: they are no results.", "")
            yield from shift_table(choosing)
        spent = own.drop_duplicates(list(COLUMNS)).groupby("method")["minutes"].mean()
        cells = [(method, f"{spent[method]:.1f}") for method in METHODS if method in spent]
        yield from ("", *markdown(("method", "minutes a training, on busy cores"), cells))


def shift_table(found):
    """The Markdown table of shifts and methods."""
    columns = (*METHODS[2:], *CANDIDATES)
    methods = [m for m in columns if any(m in scores for _, scores in found)]
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
    yield shift.name + (" †" if small else "")
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


def picture(results, name):
    """Dice before and after, a line a shift."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    marks = {"source_only": ("o", "none"), "oracle": ("|", "black"), "robust": ("o", "C0")}
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.3 * len(results)))
    for line, (_, scores) in enumerate(reversed(results)):
        means = {m: np.mean(list(scores[m].values())) for m in marks if m in scores}
        ends = [means[m] for m in ("source_only", "robust") if m in means]
        axes.plot(ends, [line] * len(ends), color="C0", linewidth=1)
        for method, mean in means.items():
            mark, colour = marks[method]
            axes.scatter(mean, line, 50, colour, mark, edgecolors="C0" if mark == "o" else None)
    axes.set_yticks(range(len(results)), [shift.name for shift, _ in reversed(results)])
    axes.set_xlabel("Dice: ○ source only, ● adapted, | oracle; mean of seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    with replacing(HERE / name) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    main("shifts", wanted(), page, COLUMNS)
