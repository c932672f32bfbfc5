"""OCT fluid: the published configuration, our recipe on both splits, and what transfer is worth.

MEDUDA_DATA=… python benchmarks/oct.py            (completes oct.csv, then writes oct.md)
MEDUDA_DATA=… python benchmarks/oct.py aerunet 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/oct.py --page     (writes oct.md from what oct.csv holds)
MEDUDA_DATA=… python benchmarks/oct.py --choose   (completes oct_choice.csv: which recipe)

Every run is a plan of scripts/train_oct.py and makes one set of rows; one that is complete is not
repeated, and an interrupted run continues. A recipe is chosen within the 88 training images: it is
trained on one half of the subjects and scored on the other, and vice versa, for 300 steps unless
its name says otherwise. The 22 test images are read by the final evaluation alone.
"""

import itertools
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as keras_meduda, but before Keras
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import matplotlib
import numpy as np
import pandas as pd
from tables import asked, complete, read, spread, timed
from train_oct import (
    PUBLISHED,
    evaluate_by_subject,
    label_pairs,
    own_plan,
    published_plan,
    train,
)

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Deformation, Geometry, Photometry
from keras_meduda.data.io import replacing
from keras_meduda.evaluation.ensemble import flips
from keras_meduda.evaluation.statistics import summarise

HERE = Path(__file__).parent
COMMAND = "python benchmarks/oct.py"
WORK = HERE.parent / "runs" / "oct_benchmark"
TRANSFER_STEPS, CHOICE_STEPS = 300, 300
PARTS = {"scratch": "all", "head": "head", "partial": "decoder", "full": "all"}
HALVES = [[f"subject_{n}" for n in half] for half in (range(0, 10, 2), range(1, 10, 2))]
STRONG = {
    "geometry": Geometry(rotation=20.0, scale=0.5, shift=0.1),
    "source_photometry": Photometry(blur=1.0),
}
CANDIDATES = {  # what each changes of our recipe
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
    "unet": {"network": lambda: km.models.UNet((256, 256, 1), 2, (16, 32, 64, 128, 256))},
    "wide": {
        "network": lambda: km.models.AERUNet((256, 256, 1), 2, (24, 48, 96, 192, 384)),
    },
    "own_1600": {"steps": 1600},
    "own_1600_flips": {"steps": 1600},  # the same networks, predictions averaged with the mirrored
    "strong_1600": {"steps": 1600, "batches": STRONG},
    "clahe_1600": {
        "steps": 1600,
        "preprocessing": km.Preprocessing(
            size=(256, 256), intensity=("clahe",), normalise="zero_one", channels=1
        ),
    },
    "unet_1600": {
        "steps": 1600,
        "network": lambda: km.models.UNet((256, 256, 1), 2, (16, 32, 64, 128, 256)),
    },
}
DISC = km.Task(("disc",), values={"disc": (128, 255)})


def cases_of(split, fold=None):
    """Training and test cases of the Chiu data set, and its task."""
    root = Path(os.environ["MEDUDA_DATA"]) / "oct_chiu"
    cases, task = catalog.chiu(root, split, fold)
    return cases[cases["split"] == "train"], cases[cases["split"] == "test"], task


def fit(folder, *arguments, **settings):
    """One training; returns the run and its minutes."""
    if (folder / "network.keras").exists():
        return timed(folder, lambda: km.load(folder))
    return timed(folder, lambda: train(*arguments, folder, store=WORK / "prepared", **settings))


def discs():
    """A network that was trained on the optic discs of REFUGE, in grey, by the same recipe."""
    cases, _ = catalog.refuge(Path(os.environ["MEDUDA_DATA"]) / "fundus" / "refuge")
    plan = replace(own_plan(), steps=TRANSFER_STEPS)
    run, _ = fit(WORK / "discs", plan, cases[cases["split"] == "train"], DISC)
    return run


def published():
    """The best row of the published table, from scratch: its checkpoint is not at hand."""
    cases, test, task = cases_of("published")
    plan = published_plan(PUBLISHED["best"])
    run, minutes = fit(WORK / "unet_s5_d16_psp", plan, cases, task)
    return [(run, test)], minutes


def recipe(seed, steps=800):
    """Our recipe on the published split, as it is or longer."""
    cases, test, task = cases_of("published")
    folder = WORK / (f"own-{seed}" if steps == 800 else f"own_{steps}-{seed}")
    run, minutes = fit(folder, replace(own_plan(), steps=steps), cases, task, seed=seed)
    return [(run, test)], minutes


def left_out():
    """Our recipe once for every two subjects that are left out; scored together."""
    runs, total = [], 0.0
    for fold in range(5):
        cases, test, task = cases_of("subject", fold)
        run, minutes = fit(WORK / f"subject-{fold}", own_plan(), cases, task)
        runs.append((run, test))
        total += minutes
    return runs, total


def transfer(method, count):
    """Our recipe, shorter, on all or a few training images, from scratch or from the discs."""
    cases, test, task = cases_of("published")
    if count < len(cases):
        cases = cases.sample(count, random_state=0).sort_index()
    init = None if method == "scratch" else discs().path
    plan = replace(own_plan(), steps=TRANSFER_STEPS)
    folder = WORK / f"{method}_{count}"
    run, minutes = fit(folder, plan, cases, task, init=init, part=PARTS[method])
    return [(run, test)], minutes


def choice(name):
    """A candidate recipe, trained on one half of the subjects at a time, scored on the other."""
    cases, _, task = cases_of("published")
    plan = replace(own_plan(), **{"steps": CHOICE_STEPS, **CANDIDATES[name]})
    runs, total = [], 0.0
    for half in HALVES:
        out = cases["subject"].isin(half)
        folder = WORK / f"choice-{name.removesuffix('_flips')}-{half[0]}"
        run, minutes = fit(folder, plan, cases[~out], task)
        runs.append((flips(run, "X") if name.endswith("_flips") else run, cases[out]))
        total += minutes
    return runs, total


def wanted():
    """Row sets in the order in which they are made."""
    yield key("unet_s5_d16_psp", "published", "scratch"), published
    for seed in (0, 1, 2):
        yield key("aerunet", "published", "scratch", seed), partial(recipe, seed)
    for seed in (0, 1, 2):
        yield key("aerunet", "published", "longer", seed), partial(recipe, seed, 1600)
    yield key("aerunet", "subject", "scratch"), left_out
    for count, method in itertools.product((8, 88), PARTS):
        source = "-" if method == "scratch" else "refuge"
        row_set = key("aerunet", "published", f"{method}_{count}", source=source)
        yield row_set, partial(transfer, method, count)


def candidates():
    """Row sets of the choice of a recipe."""
    for name in CANDIDATES:
        network = "unet" if name.startswith("unet") else "aerunet"
        yield key(network, "subject", name), partial(choice, name)


def key(network, split, method, seed=0, source="-"):
    """Which row set it is."""
    return network, source, "chiu", split, method, str(seed)


def scored(row_sets):
    """The row sets with scores instead of runs, those that belong together scored together."""
    for row_set, make in row_sets:
        yield row_set, lambda make=make: scores(*make())


def scores(runs, minutes):
    """Totals over all pixels, as published, and by B-scan."""
    frame = pd.concat([evaluate_by_subject(run, test) for run, test in runs])
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
    """Writes oct.md and the picture of the transfer."""
    table = read(HERE / "oct.csv").astype({"value": float, "minutes": float})
    key = ["network", "source", "split", "method", "seed"]
    wide = table.pivot_table(index=key, columns="metric", values="value")
    on_cpu = table[~table["command"].str.startswith("KERAS_BACKEND=jax")]  # others shared a GPU
    minutes = on_cpu.groupby(key)["minutes"].first()
    lines = [
        "# OCT fluid: Chiu 2015",
        "",
        f"Made from `oct.csv`, whose rows name their command; `{COMMAND}` completes it. Do not "
        "edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "mDice and mIoU are counted over all pixels of the test images and average background and "
        "fluid, as the published ones do. Dice by B-scan is the mean over B-scans (1 where there "
        "is no fluid and none is found), with its 95 % interval resampled by subject. Where there "
        "are several seeds: mean ± half the range.",
        "",
        "## Published configuration and our recipe",
        "",
        "| network | split | seeds | mDice | mIoU | fluid Dice, totals | Dice by B-scan "
        "| minutes |",
        "|---|---|---|---|---|---|---|---|",
        "| unet_s5_d16_psp, published, from HRF vessels | published | 0 | 0.8430 | 0.7600 | 0.6883 "
        "| – | – |",
    ]
    for network, split, method in (
        ("unet_s5_d16_psp", "published", "scratch"),
        ("aerunet", "published", "scratch"),
        ("aerunet", "published", "longer"),
        ("aerunet", "subject", "scratch"),
    ):
        key = (network, "-", split, method)
        if key not in {k[:4] for k in wide.index}:
            continue
        own, spent = wide.loc[key], minutes[[k[:4] == key for k in minutes.index]]
        low, high = own["dice_ci95_low"].mean(), own["dice_ci95_high"].mean()
        cells = [
            network + (", 1600 steps" if method == "longer" else ""),
            split,
            ", ".join(own.index),
            *(spread(own[metric], 4) for metric in ("mdice", "miou", "dice_total")),
            f"{spread(own['dice'])} ({low:.3f} to {high:.3f})",
            f"{spent.mean():.0f}" if len(spent) else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "The published split is by image: every subject of its test part has other B-scans in "
        "training. With two subjects left out (five folds, all 110 B-scans tested once) the "
        "network meets people that it has not seen, as it would in use: that row is the honest "
        "one. Its difference from the published split is not knowing the subject alone: the test "
        "images differ as well (22 there), and so do the seeds.",
    ]
    moved = wide[wide.index.get_level_values("method").str.contains("_")]
    if len(moved):
        lines += [
            "",
            "## Transfer from optic discs (REFUGE), published split",
            "",
            f"{TRANSFER_STEPS} steps each. `head`: the classifier alone trains; `partial`: the "
            "decoder; `full`: everything.",
            "",
            "| start and what trains | images | mDice | fluid Dice, totals | Dice by B-scan |",
            "|---|---|---|---|---|",
        ]
        for (*_, method, _seed), own in moved.iterrows():
            name, count = method.rsplit("_", 1)
            cells = [f"{own[metric]:.4f}" for metric in ("mdice", "dice_total", "dice")]
            lines.append("| " + " | ".join([name, count, *cells]) + " |")
        picture(moved)
        lines += ["", "![transfer](oct_transfer.png)"]
    lines += choice_table()
    notes = HERE / "oct_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / "oct.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


def choice_table():
    """The Markdown table of the recipes that were compared, from oct_choice.csv."""
    table = read(HERE / "oct_choice.csv").astype({"value": float})
    if table.empty:
        return
    yield from (
        "",
        "## Which recipe",
        "",
        "Trained on one half of the subjects of the 88 training images and scored on the other, "
        f"and vice versa, {CHOICE_STEPS} steps unless the name says otherwise, seed 0 "
        f"(`{COMMAND} --choose`).",
        "",
        "| recipe | mDice | mIoU | fluid Dice, totals |",
        "|---|---|---|---|",
    )
    wide = table.pivot_table(index="method", columns="metric", values="value")
    for name, own in wide.sort_values("mdice", ascending=False).iterrows():
        cells = [f"{own[metric]:.4f}" for metric in ("mdice", "miou", "dice_total")]
        yield "| " + " | ".join([name, *cells]) + " |"


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
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--choose" in sys.argv:
        row_sets, table = asked(candidates(), words), HERE / "oct_choice.csv"
        complete(table, scored(row_sets), f"{COMMAND} --choose")
    else:
        if "--page" not in sys.argv:
            complete(HERE / "oct.csv", scored(asked(wanted(), words)), COMMAND)
        page()
