"""OCT fluid: the published configuration, our recipe on both splits, and what transfer is worth.

MEDUDA_DATA=… python benchmarks/oct.py            (completes oct.csv, then writes oct.md)
MEDUDA_DATA=… python benchmarks/oct.py aerunet 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/oct.py --page     (writes oct.md from what oct.csv holds)
MEDUDA_DATA=… python benchmarks/oct.py --choose   (completes oct_choice.csv: which recipe)

Every run is the recipe `oct` or a variant of it and makes one set of rows; one that is complete is
not repeated, and an interrupted run continues. A recipe is chosen within the 88 training images: it
is trained on one half of the subjects and scored on the other, and vice versa, for 300 steps unless
its name says otherwise. The 22 test images are read by the final evaluation alone. The column
`start` names the first weights: random ones, or ImageNet's in MobileNetV2, the encoder of AERUNet.

Rows with the source `vessels` are the published study with another start. The checkpoint of HRF's
vessels is not at hand, so the published network first learns the vessels of DRIVE and CHASE, by the
published settings of a crop of 320 px, 1,600 steps. A row of 400 steps on 512 × 512 takes hours
without a GPU.
"""

import itertools
import sys
from dataclasses import replace
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
from tables import (
    HERE,
    KEY,
    RUNS,
    asked,
    complete,
    data_root,
    imagenet_mobilenetv2,
    main,
    markdown,
    read,
    spread,
    trained,
)

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Deformation, Geometry, Photometry
from keras_meduda.data.io import read_mask, replacing
from keras_meduda.evaluation.ensemble import flips
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.statistics import summarise
from keras_meduda.experiment.data import Data
from keras_meduda.methods import Supervised
from keras_meduda.recipes import oct

WORK = RUNS / "oct_benchmark"
COLUMNS = (*KEY, "start")
TRANSFER_STEPS, CHOICE_STEPS, VESSEL_STEPS = 300, 300, 1600
PARTS = {"scratch": "all", "head": "head", "partial": "decoder", "full": "all"}
HALVES = [[f"subject_{n}" for n in half] for half in (range(0, 10, 2), range(1, 10, 2))]
STRONG = {
    "geometry": Geometry(rotation=20.0, scale=0.5, shift=0.1),
    "source_photometry": Photometry(blur=1.0),
}
PUBLISHED_SCORES = {  # README of the study: mDice, mIoU
    "steps_200": ("0.7721", "0.6855"),
    "steps_400": ("0.7173", "0.6371"),
    "flip": ("0.7040", "0.6263"),
    "crop_192": ("0.6951", "0.6190"),
    "crop_224": ("0.7106", "0.6299"),
    "crop_320": ("0.8401", "0.7567"),
    "dice": ("0.8395", "0.7560"),
    "focal": ("0.8280", "0.7429"),
    "adam": ("0.4981", "0.4963"),
    "best": ("0.8430", "0.7600"),
    "l2_1e-3": ("0.8312", "0.7464"),
}
UNET = partial(km.models.UNet, filters=(16, 32, 64, 128, 256))
CANDIDATES = {  # what each changes of our recipe, see `variant`
    "own": {},
    "strong": {"batches": STRONG},
    "bent": {
        "batches": {
            "geometry": Deformation(stretch=0.3, turns=False, flips=False),
            "source_photometry": Photometry(blur=1.0),
        }
    },
    "flip": {  # no pixel interpolated: fluid is parted by lines one pixel wide
        "batches": {
            "geometry": Geometry(rotation=0.0, scale=0.0, shift=0.0),
            "source_photometry": Photometry(brightness=0.1, blur=0.0, noise=0.02, probability=0.5),
        }
    },
    "cross_entropy": {"loss": km.losses.cross_entropy},
    "dice": {"loss": km.losses.joint_dice_loss},
    "unet": {"network": UNET},
    "wide": {"network": partial(km.models.AERUNet, filters=(24, 48, 96, 192, 384))},
    "own_1600": {"steps": 1600},
    "own_1600_flips": {"steps": 1600},  # the same networks, predictions averaged with the mirrored
    "strong_1600": {"steps": 1600, "batches": STRONG},
    "clahe_1600": {
        "steps": 1600,
        "preprocessing": km.Preprocessing(
            (256, 256), intensity=("clahe",), normalise="zero_one", channels=1
        ),
    },
    "unet_1600": {"steps": 1600, "network": UNET},
}


def own(**flags):
    """Our recipe, or that of other flags."""
    flags = oct.Flags(root=data_root() / "oct_chiu", **flags)
    return oct.recipe(flags, Data(km.Task(("fluid",)), {}, {}, "Chiu 2015"))


def variant(steps=CHOICE_STEPS, loss=None, **changes):
    """Our recipe with other steps, loss or fields."""
    recipe = replace(own(steps=steps), **changes)
    if loss is None:
        return recipe
    stage = replace(
        recipe.stages["trained"],
        method=lambda network, batches: Supervised(network, overlapping=False, loss=loss),
    )
    return replace(recipe, stages={"trained": stage})


def chiu(split="published", fold=None):
    """The cases of the Chiu data set, with their subjects as the groups."""
    cases, task = catalog.chiu(data_root() / "oct_chiu", split, fold)
    cases = cases.assign(group=cases.get("subject", cases["group"]))
    train, test = (cases[cases["split"] == part] for part in ("train", "test"))
    return Data(task, {"source": train}, {"test": test}, f"Chiu 2015, split {split}")


def fit(recipe, data, name, seed=0):
    """One training; returns [(run, tested cases)] and its minutes."""
    recipe = replace(recipe, stages={name: recipe.stages["trained"]})
    run, minutes = trained(recipe, data, name, WORK, seed)
    return [(run, data.tests["test"])], minutes


def together(parts):
    """Several trainings, scored together."""
    runs, minutes = zip(*parts, strict=True)
    return list(itertools.chain(*runs)), sum(minutes)


def discs():
    """A network that was trained on the optic discs of REFUGE, in grey, by the same recipe."""
    cases, _ = catalog.refuge(data_root() / "fundus" / "refuge")
    train = cases[cases["split"] == "train"]
    data = Data(km.Task(("disc",), values={"disc": (128, 255)}), {"source": train}, {}, "discs")
    return trained(own(steps=TRANSFER_STEPS), data, "trained", WORK / "discs")[0]


def vessels():
    """The published network, trained on the vessels of two cameras of the eye."""
    cases = km.read_cases(data_root() / "shifts" / "vessels" / "cases.csv")
    train = cases[cases["split"] == "train"]
    data = Data(km.Task(("vessel",)), {"source": train}, {}, "vessels")
    recipe = own(preset="crop_320", steps=VESSEL_STEPS)
    return trained(recipe, data, "trained", WORK / "vessels")[0]


def from_vessels(preset):
    """A row of the published table that begins with the vessels."""
    return published(f"vessels_{preset}", preset=preset, init=vessels().path)


def transfer(method, count):
    """Our recipe, shorter, on all or a few training images, from scratch or from the discs."""
    data = chiu()
    cases = data.parts["source"]
    if count < len(cases):
        cases = cases.sample(count, random_state=0).sort_index()
    init = None if method == "scratch" else discs().path
    recipe = own(steps=TRANSFER_STEPS, init=init, train=PARTS[method])
    return fit(recipe, replace(data, parts={"source": cases}), f"{method}_{count}")


def left_out():
    """Our recipe once for every two subjects that are left out."""
    return together(fit(own(), chiu("subject", n), f"subject-{n}") for n in range(5))


def choice(name):
    """A candidate, trained on one half of the subjects at a time, scored on the other."""
    data, recipe, folder = chiu(), variant(**CANDIDATES[name]), name.removesuffix("_flips")
    cases = data.parts["source"]

    def half(subjects):
        out = cases["subject"].isin(subjects)
        parts = replace(data, parts={"source": cases[~out]}, tests={"test": cases[out]})
        return fit(recipe, parts, f"choice-{folder}-{subjects[0]}")

    runs, minutes = together(map(half, HALVES))
    return [(flips(r, "X") if name.endswith("_flips") else r, c) for r, c in runs], minutes


def published(name, seed=0, **flags):
    """Our recipe, or that of other flags, on the published split."""
    return fit(own(**flags), chiu(), name, seed)


def pretrained(name, seed, steps):
    """Our recipe with an encoder that begins with ImageNet's weights."""
    start = {"backbone": "mobilenetv2", "weights": str(imagenet_mobilenetv2())}
    return published(name, seed, steps=steps, **start)


def wanted():
    """Row sets in the order in which they are made."""
    for names, make in made():
        start = "imagenet" if names[0] == "aerunet_mobilenetv2" else "random"
        yield (*names, start), make


def made():
    """The same without their start."""
    # The best row of the published table, from scratch: its checkpoint is not at hand
    best = partial(scores, partial(published, "unet_s5_d16_psp", preset="best"))
    yield key("unet_s5_d16_psp", "published", "scratch"), best
    for (method, steps), seed in itertools.product((("scratch", 800), ("longer", 1600)), range(3)):
        made = partial(published, f"own_{steps}", seed, steps=steps)
        yield key("aerunet", "published", method, seed), partial(scores, made)
    for (method, steps), seed in itertools.product((("scratch", 800), ("longer", 1600)), range(3)):
        made = partial(pretrained, f"imagenet_{steps}", seed, steps)
        yield key("aerunet_mobilenetv2", "published", method, seed), partial(scores, made)
    yield key("aerunet", "subject", "scratch"), partial(scores, left_out)
    for preset in PUBLISHED_SCORES:
        made = partial(scores, from_vessels, preset)
        yield key("unet_s5_d16_psp", "published", preset, source="vessels"), made
    for count, method in itertools.product((8, 88), PARTS):
        source = "-" if method == "scratch" else "refuge"
        made = partial(scores, transfer, method, count)
        yield key("aerunet", "published", f"{method}_{count}", source=source), made


def candidates():
    """Row sets of the choice of a recipe."""
    for name in CANDIDATES:
        network = "unet" if name.startswith("unet") else "aerunet"
        yield key(network, "subject", name), partial(scores, choice, name)


def key(network, split, method, seed=0, source="-"):
    """Which row set it is."""
    return network, source, "chiu", split, method, str(seed)


def label_pairs(run, cases):
    """Predicted and reference labels of every case, for `km.metrics.totals`."""
    predictions = predict_all(run, list(cases["image"]))
    for probabilities, mask in zip(predictions, cases["mask"], strict=True):
        yield probabilities.argmax(axis=-1), read_mask(mask, run.task)


def scores(make, *arguments):
    """Totals over all pixels, as published, and by B-scan."""
    runs, minutes = make(*arguments)
    frame = pd.concat([km.evaluate(run, test) for run, test in runs])
    pairs = itertools.chain.from_iterable(label_pairs(run, test) for run, test in runs)
    totals = km.metrics.totals(pairs, ["fluid"])
    fluid = summarise(frame)["classes"]["fluid"]
    return [
        ("all", "mdice", totals["mdice"], "1"),
        ("all", "miou", totals["miou"], "1"),
        ("fluid", "dice_total", totals["dice"]["fluid"], "1"),
        ("fluid", "iou_total", totals["iou"]["fluid"], "1"),
        ("fluid", "dice", fluid["dice"]["mean"], "1"),
        ("fluid", "dice_ci95_low", fluid["dice"]["ci95"][0], "1"),
        ("fluid", "dice_ci95_high", fluid["dice"]["ci95"][1], "1"),
        ("fluid", "iou", fluid["iou"]["mean"], "1"),
        ("fluid", "hd95", fluid["hd95"]["mean"], "px"),
        ("fluid", "assd", fluid["assd"]["mean"], "px"),
    ], minutes


def page():
    """The lines of oct.md; makes the picture of the transfer as well."""
    table = read("oct", COLUMNS).astype({"value": float, "minutes": float})
    key = ["network", "source", "split", "method", "seed"]
    starts = dict(zip(table["network"], table["start"], strict=True))
    wide = table.pivot_table(index=key, columns="metric", values="value")
    on_cpu = table[~table["command"].str.startswith("KERAS_BACKEND=jax")]  # others shared a GPU
    minutes = on_cpu.groupby(key)["minutes"].first()

    def cells(network, split, method):
        chosen = (network, "-", split, method)
        own, spent = wide.loc[chosen], minutes[[k[:4] == chosen for k in minutes.index]]
        low, high = own["dice_ci95_low"].mean(), own["dice_ci95_high"].mean()
        return (
            network + (", 1600 steps" if method == "longer" else ""),
            starts[network],
            split,
            ", ".join(own.index),
            *(spread(own[metric], 4) for metric in ("mdice", "miou", "dice_total")),
            f"{spread(own['dice'])} ({low:.3f} to {high:.3f})",
            f"{spent.mean():.0f}" if len(spent) else "–",
        )

    yield from (
        "# OCT fluid: Chiu 2015",
        "",
        "Made from `oct.csv`, whose rows name their command; `python benchmarks/oct.py` completes "
        "it. Do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "mDice and mIoU are counted over all pixels of the test images and average background and "
        "fluid, as the published ones do. Dice by B-scan is the mean over B-scans (1 where there "
        "is no fluid and none is found), with its 95 % interval resampled by subject. Where there "
        "are several seeds: mean ± half the range.",
        "",
        "## Published configuration and our recipe",
        "",
    )
    columns = ("network", "start", "split", "seeds", "mDice", "mIoU", "fluid Dice, totals")
    made = {names[:4] for names in wide.index}
    rows = (
        ("unet_s5_d16_psp", "published", "scratch"),
        ("aerunet", "published", "scratch"),
        ("aerunet", "published", "longer"),
        ("aerunet_mobilenetv2", "published", "scratch"),
        ("aerunet_mobilenetv2", "published", "longer"),
        ("aerunet", "subject", "scratch"),
    )
    yield from markdown(
        (*columns, "Dice by B-scan", "minutes"),
        (
            (
                "unet_s5_d16_psp, as published", "HRF vessels", "published", 0, "0.8430", "0.7600",
                "0.6883", "–", "–",
            ),
            *(cells(*row) for row in rows if (row[0], "-", *row[1:]) in made),
        ),
    )
    yield from (
        "",
        "The published split is by image: every subject of its test part has other B-scans in "
        "training. With two subjects left out (five folds, all 110 B-scans tested once) the "
        "network meets people that it has not seen, as it would in use: that row is the honest "
        "one. Its difference from the published split is not knowing the subject alone: the test "
        "images differ as well (22 there), and so do the seeds.",
    )
    study = wide[wide.index.get_level_values("source") == "vessels"]
    if len(study):
        yield from study_table(study)
    moved = wide[wide.index.get_level_values("source") != "vessels"]
    moved = moved[moved.index.get_level_values("method").str.contains("_")]
    if len(moved):
        yield from (
            "",
            "## Transfer from optic discs (REFUGE), published split",
            "",
            f"{TRANSFER_STEPS} steps each. `head`: the classifier alone trains; `partial`: the "
            "decoder; `full`: everything.",
            "",
        )
        columns = ("start and what trains", "images", "mDice", "fluid Dice, totals")
        metrics = ("mdice", "dice_total", "dice")
        rows = (
            (*method.rsplit("_", 1), *(f"{own[metric]:.4f}" for metric in metrics))
            for (*_, method, _seed), own in moved.iterrows()
        )
        yield from markdown((*columns, "Dice by B-scan"), rows)
        picture(moved)
        yield from ("", "![transfer](oct_transfer.png)")
    yield from choice_table()


def study_table(study):
    """The published table, row by row, beside ours from other vessels."""
    yield from (
        "",
        "## From vessels to fluid, published split",
        "",
        "The published network and settings. Published: from HRF's vessels; ours: from those of "
        "DRIVE and CHASE.",
        "",
    )
    rows = (
        (method, *PUBLISHED_SCORES[method], *(f"{own[m]:.4f}" for m in ("mdice", "miou")))
        for (*_, method, _seed), own in study.iterrows()
    )
    columns = ("settings", "mDice, published", "mIoU, published", "mDice, ours", "mIoU, ours")
    yield from markdown(columns, rows)


def choice_table():
    """The Markdown table of the recipes that were compared, from oct_choice.csv."""
    table = read("oct_choice").astype({"value": float})
    if table.empty:
        return
    yield from (
        "",
        "## Which recipe",
        "",
        "Trained on one half of the subjects of the 88 training images and scored on the other, "
        f"and vice versa, {CHOICE_STEPS} steps unless the name says otherwise, seed 0 "
        "(`python benchmarks/oct.py --choose`).",
        "",
    )
    wide = table.pivot_table(index="method", columns="metric", values="value")
    rows = wide.sort_values("mdice", ascending=False)[["mdice", "miou", "dice_total"]]
    cells = ((name, *(f"{value:.4f}" for value in own)) for name, own in rows.iterrows())
    yield from markdown(("recipe", "mDice", "mIoU", "fluid Dice, totals"), cells)


def picture(moved):
    """Fluid Dice by start, for few and all training images, as oct_transfer.png."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    scores = {key[3]: value for key, value in moved["dice_total"].items()}
    for i, count in enumerate(("8", "88")):
        values = [scores.get(f"{method}_{count}", np.nan) for method in PARTS]
        bars = axes.bar(np.arange(len(PARTS)) + 0.4 * i, values, 0.38, label=f"{count} images")
        axes.bar_label(bars, fmt="%.2f")
    axes.set_xticks(np.arange(len(PARTS)) + 0.2, list(PARTS))
    axes.set_ylabel("Dice of fluid, totals of 22 B-scans")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.tight_layout()
    with replacing(HERE / "oct_transfer.png") as unfinished:
        figure.savefig(unfinished, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    if "--choose" in sys.argv:
        words = [word for word in sys.argv[1:] if not word.startswith("--")]
        command = "python benchmarks/oct.py --choose"
        complete("oct_choice", asked(candidates(), words), command)
    else:
        main("oct", wanted(), page, COLUMNS)
