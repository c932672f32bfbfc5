"""Brain volumes: tumours across contrasts, and ventricles of mice by transfer from rats' lesions.

MEDUDA_DATA=… python benchmarks/brain.py          (completes brain.csv, then writes brain.md)
MEDUDA_DATA=… python benchmarks/brain.py unetr 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/brain.py --page   (writes brain.md from brain.csv)

Tumours: AERUNet with filters 8…64 on patches of 48 × 48 × 48, steps of 2 (a domain), predicted by a
sliding window; KL distillation goes on from source only for as many. BraTS at 2 mm, each of three
subjects left out once, 120 steps; phantoms at 1 mm, 8 test cases, 240 steps. Ventricles:
RatLesNetV2 and MONAI's networks on patches of 16 coronal slices of 48 × 48, 0.45 mm thick, of
pixels of 0.2 mm, 300 steps of 1, on wild type mice, tested on 6 transgenic ones, whose ventricles
are enlarged; RatLesNetV2 with its own loss, the others with the mouse study's Dice of both classes.
Adam, weights of the last step, distances in mm. Target labels are read by the evaluation, and by
the oracle, alone; both contrasts of a BraTS training subject are in training, the target's without
labels.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import pandas as pd
from tables import RUNS, data_root, main, markdown, mean_scores, read, spread, trained

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Geometry, Intensity, RandomPatch
from keras_meduda.data.cases import without_masks
from keras_meduda.data.phantoms import write_brain
from keras_meduda.data.subset import balanced_subset, lesion_volumes
from keras_meduda.evaluation.statistics import gap_closed, paired_test
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.recipe import Recipe, Stage, adam, supervised
from keras_meduda.methods import KLDistillation
from keras_meduda.recipes import ratlesnet

WORK = RUNS / "brain_benchmark"
STEPS, MOUSE_STEPS = {"brats": 120, "brain_phantom": 240}, 300
SHIFTS = (("t2", "flair"), ("flair", "t2"))
PARTS = {"scratch": "none", "partial": "partial", "full": "full"}
COUNTS = (2, 4, 6)
NETWORKS = ("unet", "dynunet", "unetr")  # of MONAI


# Tumours across contrasts


def kl(mode):
    """KL distillation that goes on from source only."""
    return Stage(
        lambda network, batches: KLDistillation(network, overlapping=False, mode=mode, ema=0.99),
        uses=("source", "target"),
        start="source_only",
        compile=adam(5e-4),
        source_styles=2,
        target_styles=2 if mode == "style" else 0,
    )


TUMOURS = Recipe(
    title="Tumours",
    network=partial(km.models.AERUNet, filters=(8, 16, 32, 64)),
    preprocessing=km.Preprocessing(
        (64, 72, 56), normalise="zscore_foreground", channels=1, axes="XYZ", fit="crop"
    ),
    batch_size=2,
    batches={
        "geometry": Geometry(rotation=10.0),
        "photometry": Intensity(),
        "source_photometry": Intensity(),
        "patch": RandomPatch((48, 48, 48)),
    },
    window=km.SlidingWindow((48, 48, 48), (36, 36, 36), gaussian=True),
    stages={
        "source_only": Stage(supervised),
        "histogram_matched": Stage(supervised, source_styles=2, batches={"style_share": 1.0}),
        "kl_distillation_style": kl("style"),
        "kl_distillation_strong": kl("strong"),
        "oracle": Stage(supervised, uses=("oracle",)),
    },
)


def tumour_folds(name):
    """Recipe, task, and for each fold the cases that train and those that are tested."""
    recipe = replace(TUMOURS, steps=STEPS[name])
    if name == "brats":
        cases, task = catalog.brats(data_root() / "brats")
        grid = replace(recipe.preprocessing, size=(80, 96, 80), spacing=(2.0, 2.0, 2.0))
        out = [cases["case"] == case for case in sorted(set(cases["case"]))]
        return replace(recipe, preprocessing=grid), task, [(cases[~o], cases[o]) for o in out]
    table = WORK / "phantoms" / "cases.csv"
    if not table.exists():
        write_brain(table.parent, cases_per_domain=24)
    cases, task = km.read_cases(table), km.Task(("tumour",), unit="mm")
    return recipe, task, [tuple(cases[cases["split"] == part] for part in ("train", "test"))]


def tumour_frame(name, source, target, method):
    """Metrics of all test cases of a method, of all folds together, and its minutes."""
    recipe, task, folds = tumour_folds(name)
    frames, total = [], 0.0
    for fold, (train, test) in enumerate(folds):
        labelled, oracle = (train[train["domain"] == domain] for domain in (source, target))
        parts = {"source": labelled, "target": without_masks(oracle), "oracle": oracle}
        tests = {"target, test": test[test["domain"] == target]}
        data = Data(task, parts, tests, f"{name}: {source} → {target}")
        folder = WORK / name / f"{source}-{target}-{fold}"
        run, minutes = trained(recipe, data, method, folder)
        table = run.path / "cases.csv"
        if not table.exists():
            km.evaluate(run, data.tests["target, test"], task).to_csv(table, index=False)
        frames.append(pd.read_csv(table))
        total += minutes
    return pd.concat(frames, ignore_index=True), total


def tumours(name, source, target, method):
    """Scores of a method, and its minutes."""
    frame, minutes = tumour_frame(name, source, target, method)
    values = mean_scores(frame, "mm") + [("tumour", "cases", float(len(frame)), "1")]
    if method not in ("source_only", "oracle") and len(frame) > 3:
        before, _ = tumour_frame(name, source, target, "source_only")
        test = paired_test(
            frame["dice"].to_numpy(), before["dice"].to_numpy(), frame["group"].to_numpy()
        )
        values.append(("tumour", "p_against_source_only", test["p_value"], "1"))
    return values, minutes


# Ventricles of mice


def mouse(network, method, count, seed):
    """The recipe on some wild type mice, tested on all transgenic ones, and its data."""
    first = network == "ratlesnet_v2"
    weights = data_root().parent / "ratlesnet_weights" / "enlarging11-1.pt"
    flags = ratlesnet.Flags(
        model=network,
        transfer=PARTS[method],
        init=None if method == "scratch" else weights,
        root=data_root() / "brain_mouse",
        dataset="brain_mouse",
        loss="ratlesnet" if first else "mouse_dice",
        epochs=10,
        epoch=MOUSE_STEPS // 10,
        axes="YXZ" if first else "XYZ",
        spacing=(0.45, 0.2, 0.2) if first else (0.2, 0.45, 0.2),
        patch=(16, 48, 48) if first else (48, 16, 48),
        augment=True,
    )
    cases, task = catalog.brain_mouse(flags.root)
    wild, other = (cases[cases["domain"] == domain] for domain in ("wild_type", "transgenic"))
    chosen = balanced_subset(wild, lesion_volumes(wild, task), count, seed)
    data = Data(task, {"source": chosen}, {"transgenic": other}, "wild type → transgenic mice")
    recipe = ratlesnet.recipe(flags, replace(data, tests={"wild type": wild}))  # of whose grid
    if network == "unetr":  # narrower than its default of 93 million parameters
        narrow = partial(km.models.UNETR, feature_size=8, hidden=192, mlp=768, heads=6)
        recipe = replace(recipe, network=narrow)
    return recipe, data


def ventricles(network, method, count, seed):
    """Scores of transgenic mice by a network that some wild type ones have taught."""
    recipe, data = mouse(network, method, count, seed)
    folder = WORK / "mouse" / f"{network}-{method}-{count}"
    run, minutes = trained(recipe, data, "trained", folder, seed)
    frame = km.evaluate(run, data.tests["transgenic"], data.task)
    frame.to_csv(run.path / "cases.csv", index=False)
    values = mean_scores(frame, "mm")
    parameters = sum(math.prod(weight.shape) for weight in run.network.trainable_weights)
    values.append(("all", "parameters", float(parameters), "1"))
    values.append(("all", "seconds_per_step", 60 * minutes / MOUSE_STEPS, "s"))
    return values, minutes


# The tables


def wanted():
    """Row sets in the order in which they are made."""
    for name, (source, target), method in itertools.product(STEPS, SHIFTS, TUMOURS.stages):
        key = ("aerunet", f"{name}_{source}", f"{name}_{target}", "subject", method, "0")
        yield key, partial(tumours, name, source, target, method)
    runs = [("ratlesnet_v2", m, n) for n in COUNTS for m in PARTS]
    runs += [(network, "scratch", max(COUNTS)) for network in NETWORKS]
    for seed, (network, method, count) in itertools.product((0, 1, 2), runs):
        domains = "brain_mouse_wild_type", "brain_mouse_transgenic"
        key = (network, *domains, "subject", f"{method}_{count}", str(seed))
        yield key, partial(ventricles, network, method, count, seed)


def page():
    """The lines of brain.md."""
    table = read("brain").astype({"value": float, "minutes": float})
    yield from (
        "# Brain volumes: tumours across contrasts, ventricles of mice",
        "",
        "Made by `python benchmarks/brain.py` (2 cores, no GPU) from `brain.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].strip().replace("\n", " "),
        "Mean over test cases; ± is half the range between seeds where there are several. Gap "
        "closed = (adapted − source only) / (oracle − source only) of Dice. HD95 is MedPy's (95th "
        "percentile of the pooled surface distances). Minutes are wall time, of all folds.",
    )
    for name, (source, target) in itertools.product(STEPS, SHIFTS):
        own = table[table["source"] == f"{name}_{source}"]
        own = own[own["target"] == f"{name}_{target}"]
        if len(own):
            yield from ("", f"## {name}: {source} → {target}", "", *tumour_table(own))
    mice = table[table["target"] == "brain_mouse_transgenic"]
    if len(mice):
        yield from ("", "## Ventricles: wild type → transgenic mice", "", *mouse_table(mice))


def tumour_table(own):
    """The Markdown table of one shift."""
    wide = own.pivot_table(index="method", columns="metric", values="value")
    minutes, dice = own.groupby("method")["minutes"].first(), wide["dice"]

    def cells(method):
        closed = p = "–"
        if method not in ("source_only", "oracle") and {"source_only", "oracle"} <= set(dice.index):
            share = gap_closed(dice["source_only"], dice[method], dice["oracle"])
            closed = "–" if math.isnan(share) else f"{100 * share:.0f} %"
        if (found := wide.get("p_against_source_only")) is not None and found.notna()[method]:
            p = f"{found[method]:.2g}"
        hd95, assd = (f"{wide.loc[method, m]:.2f}" for m in ("hd95", "assd"))
        return method, f"{dice[method]:.3f}", closed, p, hd95, assd, f"{minutes[method]:.0f}"

    columns = ("method", "Dice", "gap closed", "p against source only", "HD95, mm", "ASSD, mm")
    rows = (cells(method) for method in TUMOURS.stages if method in wide.index)
    yield from (f"{wide['cases'].iloc[0]:.0f} test cases.", "")
    yield from markdown((*columns, "minutes"), rows)


def mouse_table(mice):
    """The Markdown table of networks, starts and numbers of training animals."""
    wide = mice.pivot_table(index=["network", "method", "seed"], columns="metric", values="value")

    def cells(network, method):
        own, (name, count) = wide.loc[network, method], method.rsplit("_", 1)
        parameters, seconds = own["parameters"].iloc[0], own["seconds_per_step"].mean()
        scores = spread(own["dice"]), spread(own["hd95"], 2)
        seeds = ", ".join(own.index)
        return network, name, count, seeds, *scores, f"{parameters:,.0f}", f"{seconds:.2f}"

    yield (
        "`scratch` from random weights; `partial` and `full` from RatLesNetV2's weights of rats "
        "(EnlargingTrainingSet/11): the decoder trains, or all. Seconds per step are those of the "
        "whole training, start included."
    )
    yield ""
    columns = ("network", "start, what trains", "mice", "seeds", "Dice", "HD95, mm")
    rows = dict.fromkeys(zip(mice["network"], mice["method"], strict=True))
    yield from markdown((*columns, "parameters", "s/step"), (cells(*row) for row in rows))


if __name__ == "__main__":
    main("brain", wanted(), page)
