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

from shift_cases import SHIFTS, WORK
from shift_page import COLUMNS, METHODS, page, write_readme
from tables import imagenet_mobilenetv2, main, mean_scores, timed, trained

import keras_meduda as km
from keras_meduda.data.augment import GIN, LabelCurves, RandomTable
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

NETWORKS = {  # by their start: flags of the recipe; volumes start from random weights alone
    ("aerunet_mobilenetv2", "imagenet"): {"network": "AERUNet", "backbone": "mobilenetv2"},
    ("aerunet", "random"): {"network": "AERUNet"},
}


def _overlaps(make):
    """A method of a network and its batches, which tell whether classes overlap."""
    return lambda network, batches: make(network, batches.task.overlapping)


# Between which the recipe of `meduda adapt` is chosen, beside `robust`: by rank of the images, what
# a stage changes that goes on from source only with source images in the target's style.
KL = partial(km.methods.KLDistillation, ema=0.99, guard=True)
ALONE = {"method": supervised, "uses": ("source",)}
CONTRASTS = {"random_table": RandomTable(), "gin": GIN(), "label_curves": LabelCurves()}
CANDIDATES = {
    2: {"masked_guarded": {"method": _overlaps(partial(km.methods.MaskedConsistency, guard=True))}},
    3: {
        "source_styled": ALONE,
        "style_guarded": {"method": _overlaps(KL), "target_styles": 2},
        "strong_guarded": {"method": _overlaps(partial(KL, mode="strong"))},
        **{
            name: {**ALONE, "source_styles": 0, "batches": {"source_photometry": effect}}
            for name, effect in CONTRASTS.items()
        },
    },
}


def recipe_of(shift, data, network) -> Recipe:
    """The recipe of `meduda adapt`, with the other methods as further stages."""
    flags = {**NETWORKS[network], **shift.flags, "cases": Path("cases.csv"), "oracle": True}
    if "backbone" in flags:
        flags["weights"] = str(imagenet_mobilenetv2())
    ours = adapt.recipe(adapt.Flags(**flags), data)
    shared = {name: value for name, value in flags.items() if name != "network"}
    thesis = aerunet_kd.recipe(aerunet_kd.Flags(**shared), data)
    styled = replace(thesis.stages["adapted"], target_styles=0, source_styles=4)
    candidates = CANDIDATES[shift.rank].items()
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
        "category_regularization": category,
        **{name: replace(styled, **changes) for name, changes in candidates},
    }
    return replace(ours, stages=stages)


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
    way = Way(*runs.values())
    for row in decision.scores.to_dict("records"):
        frame = km.evaluate(way.at(row["a"]), test, data.task)
        values.append(("", f"dice_at_{row['a']:g}", frame["dice"].mean(), "1"))
        values += [
            ("", f"{score}_at_{row['a']:g}", row[score], "1")
            for score in ("s1", "s2", "s3", "s4_area")
        ]
    held = data.tests["source, test"]
    if held["group"].nunique() >= FEWEST:
        values += kept_promises(decision.run, held, test, data.task)
    return decision.run, minutes, values


def with_few(recipe, data, folder, method, seed):
    """What the guard chooses, or source only, and a few labelled target cases, a patient each."""
    if method.startswith("few_source"):
        runs = [trained(recipe, data, "source_only", folder, seed)[0]] * 2
    else:
        if not (folder / f"guard-{seed}" / "guarded" / "network.keras").exists():
            guarded(recipe, data, folder, seed)
        runs = [km.load(folder / name) for name in (f"guard-{seed}/guarded", f"robust-{seed}")]
    drawn = data.parts["oracle"].sample(frac=1, random_state=seed).drop_duplicates("group")
    count = int(method.split("_")[-1])
    data = replace(data, parts={**data.parts, PART: drawn.iloc[:count]})
    options = Options(out=folder / f"{method}-{seed}", seed=seed)
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
        run, minutes = with_few(recipe, data, folder, method, seed)
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
    for seed, network, shift in itertools.product((0, 1, 2), NETWORKS, SHIFTS):
        if "backbone" in NETWORKS[network] and shift.rank == 3:
            continue
        for method in (*METHODS, *(CANDIDATES[shift.rank] if shift.choosing else ())):
            name, start = network
            key = (name, shift.source, shift.target, shift.split, method, str(seed), start)
            yield key, partial(scored, shift, network, method, seed)


if __name__ == "__main__":
    main("shifts", wanted(), partial(page, __doc__.split("\n\n")[2]), COLUMNS)
    write_readme()
