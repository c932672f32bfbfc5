"""The page of the OCT benchmark: its tables beside the published ones, and the picture."""

import matplotlib
import numpy as np
from tables import HERE, KEY, markdown, read, spread

from keras_meduda.data.io import replacing

COLUMNS = (*KEY, "start")
TRANSFER_STEPS, CHOICE_STEPS = 300, 300
PARTS = {"scratch": "all", "head": "head", "partial": "decoder", "full": "all"}
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


def page(budget):
    """The lines of oct.md; makes the picture of the transfer as well.

    Args:
        budget: what every training was given, in words.
    """
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
        budget.replace("\n", " "),
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
