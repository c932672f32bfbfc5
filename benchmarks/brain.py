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
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as keras_meduda, but before Keras
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import keras
import pandas as pd
from tables import asked, complete, mean_scores, read, spread, timed
from train_ratlesnet import RatLesNetFlags, train

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Geometry, Intensity, RandomPatch
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import replacing
from keras_meduda.data.phantoms import write_brain
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.evaluation.statistics import gap_closed, paired_test
from keras_meduda.methods import KLDistillation, Supervised

HERE = Path(__file__).parent
TABLE = HERE / "brain.csv"
COMMAND = "python benchmarks/brain.py"
WORK = HERE.parent / "runs" / "brain_benchmark"
STORE = WORK / "prepared"
WINDOW = km.SlidingWindow((48, 48, 48), (36, 36, 36), gaussian=True)
STEPS, MOUSE_STEPS = {"brats": 120, "brain_phantom": 240}, 300
SHIFTS = (("t2", "flair"), ("flair", "t2"))
KL = {"kl_distillation_style": "style", "kl_distillation_strong": "strong"}  # modes
METHODS = ("source_only", "histogram_matched", *KL, "oracle")
PARTS = {"scratch": "none", "partial": "partial", "full": "full"}
COUNTS = (2, 4, 6)
NETWORKS = {  # of MONAI; UNETR narrower than its default of 93 million parameters
    "unet": None,
    "dynunet": None,
    "unetr": partial(km.models.UNETR, feature_size=8, hidden=192, mlp=768, heads=6),
}


# Tumours across contrasts


def brats():
    """Task, preprocessing, and for each of the three subjects left out (train, test)."""
    cases, task = catalog.brats(Path(os.environ["MEDUDA_DATA"]) / "brats")
    preprocessing = km.Preprocessing(
        (80, 96, 80), normalise="zscore_foreground", channels=1, axes="XYZ",
        spacing=(2.0, 2.0, 2.0), fit="crop",
    )  # fmt: skip
    out = [cases["case"] == case for case in sorted(set(cases["case"]))]
    return task, preprocessing, [(cases[~o], cases[o]) for o in out]


def phantoms():
    """The same of drawn brains, which are split already."""
    table = WORK / "phantoms" / "cases.csv"
    if not table.exists():
        write_brain(table.parent, cases_per_domain=24)
    cases, task = km.read_cases(table), km.Task(("tumour",), unit="mm")
    preprocessing = km.Preprocessing(
        (64, 72, 56), normalise="zscore_foreground", channels=1, axes="XYZ", fit="crop"
    )
    parts = [cases[cases["split"] == split] for split in ("train", "test")]
    return task, preprocessing, [tuple(parts)]


DATA = {"brats": brats, "brain_phantom": phantoms}


def halves(source, target, method, task, preprocessing):
    """What `Batches` takes of the training cases of two domains."""

    def labelled(cases):
        return prepare(cases, task, preprocessing, STORE, labels=True)

    if method == "oracle":
        return {"source": labelled(target)}
    if method == "source_only":
        return {"source": labelled(source)}
    unlabelled = prepare(without_masks(target), task, preprocessing, STORE, labels=False)
    styled = add_styles(labelled(source), unlabelled, STORE, variants=2)
    if method == "histogram_matched":
        twins = [style for styles in styled.styles for style in styles]
        labels, voxels = (
            tuple(file for file in files for _ in styled.styles[0])
            for files in (styled.labels, styled.voxels)
        )
        matched = replace(styled, images=tuple(twins), labels=labels, voxels=voxels, styles=())
        return {"source": matched}
    if KL[method] == "style":
        unlabelled = add_styles(unlabelled, styled, STORE, variants=2)
    return {"source": styled, "target": unlabelled}


def tumour_run(data, source, target, method, fold, seed=0):
    """One training; returns the run and its minutes. KL distillation goes on from source only."""
    folder = WORK / data / f"{source}-{target}" / f"{method}-{fold}-{seed}"
    if (folder / "network.keras").exists():
        return timed(folder, lambda: km.load(folder))
    task, preprocessing, folds = DATA[data]()
    cases = folds[fold][0]
    parts = [cases[cases["domain"] == domain] for domain in (source, target)]
    batches = Batches(
        2,
        seed,
        geometry=Geometry(rotation=10.0),
        photometry=Intensity(),
        source_photometry=Intensity(),
        patch=RandomPatch(WINDOW.size),
        **halves(*parts, method, task, preprocessing),
    )
    start, steps = None, STEPS[data]
    if method in KL:
        start = tumour_run(data, source, target, "source_only", fold, seed)[0]
    with km.setup(seed=seed):
        if start:
            network = km.load(start.path).network
            model = KLDistillation(network, overlapping=False, mode=KL[method], ema=0.99)
        else:
            network = km.models.AERUNet((*WINDOW.size, 1), task.channels, (8, 16, 32, 64))
            model = Supervised(network, overlapping=False)
        rate = keras.optimizers.schedules.CosineDecay(5e-4 if start else 1e-3, steps)
        model.compile(keras.optimizers.Adam(rate))
    return timed(folder, lambda: km.fit(model, batches, steps=steps, run_dir=folder, window=WINDOW))


def tumours(data, source, target, method):
    """Scores over all test cases of a method, of all folds together, and its minutes."""
    frame, minutes = tumour_frame(data, source, target, method)
    values = mean_scores(frame, "mm") + [("tumour", "cases", float(len(frame)), "1")]
    if method not in ("source_only", "oracle") and len(frame) > 3:
        before, _ = tumour_frame(data, source, target, "source_only")
        test = paired_test(
            frame["dice"].to_numpy(), before["dice"].to_numpy(), frame["group"].to_numpy()
        )
        values.append(("tumour", "p_against_source_only", test["p_value"], "1"))
    return values, minutes


def tumour_frame(data, source, target, method):
    """Case metrics on the target's test cases, kept beside the run."""
    frames, total = [], 0.0
    task, _, folds = DATA[data]()
    for fold, (_, test) in enumerate(folds):
        run, minutes = tumour_run(data, source, target, method, fold)
        table = run.path / "cases.csv"
        if not table.exists():
            km.evaluate(run, test[test["domain"] == target], task).to_csv(table, index=False)
        frames.append(pd.read_csv(table))
        total += minutes
    return pd.concat(frames, ignore_index=True), total


# Ventricles of mice


def ventricles(network, method, count, seed):
    """Trains on some wild type mice, scores on all transgenic ones; (values, minutes)."""
    root = Path(os.environ["MEDUDA_DATA"])
    cases, task = catalog.brain_mouse(root / "brain_mouse")
    wild = cases[cases["domain"] == "wild_type"].assign(split="train")
    first = network == "ratlesnet_v2"
    flags = RatLesNetFlags(
        model=network,
        transfer=PARTS[method],
        init=None if method == "scratch" else root.parent / "ratlesnet_weights/enlarging11-1.pt",
        train_size=count,
        loss="ratlesnet" if first else "mouse_dice",
        epochs=10,
        epoch=MOUSE_STEPS // 10,
        axes="YXZ" if first else "XYZ",
        spacing=(0.45, 0.2, 0.2) if first else (0.2, 0.45, 0.2),
        patch=(16, 48, 48) if first else (48, 16, 48),
        augment=True,
        out=WORK / "mouse" / f"{network}-{method}-{count}-{seed}",
        seed=seed,
    )
    run, minutes = timed(flags.out, lambda: train(flags, wild, task, NETWORKS.get(network)))
    frame = km.evaluate(run, cases[cases["domain"] == "transgenic"], task)
    frame.to_csv(flags.out / "cases.csv", index=False)
    values = mean_scores(frame, "mm")
    parameters = sum(math.prod(weight.shape) for weight in run.network.trainable_weights)
    values.append(("all", "parameters", float(parameters), "1"))
    values.append(("all", "seconds_per_step", 60 * minutes / MOUSE_STEPS, "s"))
    return values, minutes


# The tables


def wanted():
    """Row sets in the order in which they are made."""
    for data, (source, target), method in itertools.product(DATA, SHIFTS, METHODS):
        key = ("aerunet", f"{data}_{source}", f"{data}_{target}", "subject", method, "0")
        yield key, partial(tumours, data, source, target, method)
    runs = [("ratlesnet_v2", m, n) for n in COUNTS for m in PARTS]
    runs += [(network, "scratch", max(COUNTS)) for network in NETWORKS]
    for seed, (network, method, count) in itertools.product((0, 1, 2), runs):
        domains = "brain_mouse_wild_type", "brain_mouse_transgenic"
        key = (network, *domains, "subject", f"{method}_{count}", str(seed))
        yield key, partial(ventricles, network, method, count, seed)


def page():
    """Writes brain.md."""
    table = read(TABLE).astype({"value": float, "minutes": float})
    lines = [
        "# Brain volumes: tumours across contrasts, ventricles of mice",
        "",
        f"Made by `{COMMAND}` (2 cores, no GPU) from `brain.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].strip().replace("\n", " "),
        "Mean over test cases; ± is half the range between seeds where there are several. Gap "
        "closed = (adapted − source only) / (oracle − source only) of Dice. HD95 is MedPy's (95th "
        "percentile of the pooled surface distances). Minutes are wall time, of all folds.",
    ]
    for data, (source, target) in itertools.product(DATA, SHIFTS):
        own = table[table["source"] == f"{data}_{source}"]
        own = own[own["target"] == f"{data}_{target}"]
        if len(own):
            lines += ["", f"## {data}: {source} → {target}", "", *tumour_table(own)]
    mice = table[table["target"] == "brain_mouse_transgenic"]
    if len(mice):
        lines += ["", "## Ventricles: wild type → transgenic mice", "", *mouse_table(mice)]
    notes = HERE / "brain_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / "brain.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


def tumour_table(own):
    """The Markdown table of one shift."""
    wide = own.pivot_table(index="method", columns="metric", values="value")
    minutes = own.groupby("method")["minutes"].first()
    dice = wide["dice"]
    yield f"{wide['cases'].iloc[0]:.0f} test cases."
    yield ""
    yield "| method | Dice | gap closed | p against source only | HD95, mm | ASSD, mm | minutes |"
    yield "|---|---|---|---|---|---|---|"
    for method in METHODS:
        if method not in wide.index:
            continue
        closed = p = "–"
        if method not in ("source_only", "oracle") and {"source_only", "oracle"} <= set(dice.index):
            share = gap_closed(dice["source_only"], dice[method], dice["oracle"])
            closed = "–" if math.isnan(share) else f"{100 * share:.0f} %"
        if (found := wide.get("p_against_source_only")) is not None and found.notna()[method]:
            p = f"{found[method]:.2g}"
        hd95, assd = (f"{wide.loc[method, m]:.2f}" for m in ("hd95", "assd"))
        cells = [method, f"{dice[method]:.3f}", closed, p, hd95, assd, f"{minutes[method]:.0f}"]
        yield "| " + " | ".join(cells) + " |"


def mouse_table(mice):
    """The Markdown table of networks, starts and numbers of training animals."""
    wide = mice.pivot_table(index=["network", "method", "seed"], columns="metric", values="value")
    yield (
        "`scratch` from random weights; `partial` and `full` from RatLesNetV2's weights of rats "
        "(EnlargingTrainingSet/11): the decoder trains, or all. Seconds per step are those of the "
        "whole training, start included."
    )
    yield ""
    yield "| network | start, what trains | mice | seeds | Dice | HD95, mm | parameters | s/step |"
    yield "|---|---|---|---|---|---|---|---|"
    for network, method in dict.fromkeys(zip(mice["network"], mice["method"], strict=True)):
        own, (name, count) = wide.loc[network, method], method.rsplit("_", 1)
        cells = [
            network,
            name,
            count,
            ", ".join(own.index),
            spread(own["dice"]),
            spread(own["hd95"], 2),
            f"{own['parameters'].iloc[0]:,.0f}",
            f"{own['seconds_per_step'].mean():.2f}",
        ]
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--page"]
    if "--page" not in sys.argv:
        complete(TABLE, asked(wanted(), words), COMMAND)
    page()
