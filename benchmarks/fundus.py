"""Fundus: what adaptation closes of the gap between source only and the oracle, on real cameras.

MEDUDA_DATA=… python benchmarks/fundus.py                   (completes fundus.csv and fundus.md)
MEDUDA_DATA=… python benchmarks/fundus.py refuge_camera     (only shifts to these targets)
MEDUDA_DATA=… python benchmarks/fundus.py --page            (writes fundus.md from fundus.csv)

AERUNet with filters 16…256 at 192 × 192, 600 steps of 8 (a domain), weights of the last step. Each
run is a set of rows; one that is complete is not repeated, so the command may be stopped at any
time. Target labels are read by the evaluation, and by the oracle, alone.
"""

import csv
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import read_image, replacing, write_picture
from keras_meduda.data.phantoms import camera
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.methods import KLDistillation, Supervised

HERE = Path(__file__).parent
TABLE = HERE / "fundus.csv"
COMMAND = "python benchmarks/fundus.py"
WORK = HERE.parent / "runs" / "fundus_benchmark"
COLUMNS = "network source target split method seed class metric value unit minutes command".split()
STEPS, BATCH, SIZE, FILTERS = 600, 8, 192, (16, 32, 64, 128, 256)
SHIFTS = {  # source, target: name of the target's split
    ("refuge", "refuge_camera"): "subject",
    ("drishti_gs", "refuge"): "subject",
    ("refuge", "drishti_gs"): "official",
}
METHODS = ("source_only", "oracle", "kl_distillation_style", "kl_distillation_marginal")
PREPROCESSING = km.Preprocessing(size=(SIZE, SIZE), intensity=("clahe",), normalise="zero_one")


def domain(name):
    """Cases and task of a data set; `refuge_camera` is REFUGE seen through the phantom camera."""
    root = Path(os.environ["MEDUDA_DATA"]) / "fundus"
    if name == "drishti_gs":
        return catalog.drishti_gs(root / "drishti_gs")
    cases, task = catalog.refuge(root / "refuge")
    if name == "refuge":
        return cases, task
    seen = []
    for number, row in enumerate(cases.itertuples()):
        picture = WORK / "refuge_camera" / f"{row.case}.png"
        if not picture.exists():
            write_picture(picture, camera(read_image(row.image).array, seed=number))
        seen.append(str(picture))
    return cases.assign(image=seen, domain="refuge_camera"), task


def part(cases, name):
    """The cases of a split."""
    return cases[cases["split"] == name]


def train(folder, seed, method, start=None, learning_rate=1e-3, **halves):
    """One training; returns the run and its minutes, over all calls that it took."""
    with km.setup(seed=seed):
        network = (
            km.load(start.path).network
            if start
            else km.models.AERUNet((SIZE, SIZE, 3), channels=2, filters=FILTERS)
        )
        model = method(network)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, STEPS)
        model.compile(keras.optimizers.Adam(schedule))
    spent, begin = folder / "minutes.txt", time.perf_counter()
    try:
        run = km.fit(model, Batches(BATCH, seed, **halves), steps=STEPS, run_dir=folder)
    finally:
        before = float(spent.read_text()) if spent.exists() else 0.0
        minutes = before + (time.perf_counter() - begin) / 60
        spent.write_text(str(minutes))
    return run, minutes


def make(source_name, target_name, method, seed):
    """The run of one row set and its minutes."""
    store = WORK / "prepared"
    (source_cases, task), (target_cases, target_task) = domain(source_name), domain(target_name)
    if {source_name, target_name} == {"refuge", "refuge_camera"} or source_name == "drishti_gs":
        source_cases = part(source_cases, "train")  # the rest of REFUGE is what is scored
    target_train = part(target_cases, "train")
    folder = WORK / f"{source_name}-{target_name}" / f"{method}-{seed}"

    def supervised(network):
        return Supervised(network, overlapping=True)

    if method == "oracle":
        labelled = prepare(target_train, target_task, PREPROCESSING, store, labels=True)
        return train(folder, seed, supervised, source=labelled)
    source = prepare(source_cases, task, PREPROCESSING, store, labels=True)
    if method == "source_only":
        return train(folder, seed, supervised, source=source)
    start, _ = make(source_name, target_name, "source_only", seed)
    target = prepare(without_masks(target_train), target_task, PREPROCESSING, store, labels=False)
    if method == "kl_distillation_marginal":
        return train(
            folder,
            seed,
            lambda network: KLDistillation(network, overlapping=True, mode="marginal"),
            start,
            5e-4,
            source=source,
            target=target,
        )
    return train(
        folder,
        seed,
        lambda network: KLDistillation(network, overlapping=True, ema=0.99),
        start,
        5e-4,
        source=source,
        target=add_styles(target, source, store, seed=seed),
    )


def rows(source, target, method, seed):
    """The row set of one run: every metric of every class, means over the test cases."""
    run, minutes = make(source, target, method, seed)
    cases, task = domain(target)
    frame = km.evaluate(run, part(cases, "test"), task)
    frame.to_csv(run.path / "cases.csv", index=False)
    units = {"dice": "1", "iou": "1", "hd95": "px", "assd": "px", "vcdr_error": "1"}
    for name, scores in frame.groupby("class", sort=False):
        for metric, unit in units.items():
            if scores[metric].notna().any():
                value = f"{scores[metric].mean():.6f}"
                yield dict(
                    zip(
                        COLUMNS,
                        ("aerunet", source, target, SHIFTS[source, target], method, seed, name)
                        + (metric, value, unit, f"{minutes:.1f}", COMMAND),
                        strict=True,
                    )
                )


def complete(targets):
    """Makes what is missing of the shifts to some targets, every one with seed 0 first."""
    wanted = [
        (*shift, method, seed)
        for seed in (0, 1, 2)
        for shift in SHIFTS
        if shift[1] in targets
        for method in METHODS
        if seed == 0 or method != "kl_distillation_marginal"
    ]
    for source, target, method, seed in wanted:
        mine = read()[["source", "target", "method", "seed"]].astype(str).agg(tuple, axis=1)
        if (source, target, method, str(seed)) in set(mine):
            continue
        print(f"{source} → {target}, {method}, seed {seed}", flush=True)
        new = list(rows(source, target, method, seed))
        table = read()  # again: another call may have completed other targets meanwhile
        with replacing(TABLE) as unfinished, open(unfinished, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table.to_dict("records") + new)
        page()


def read():
    """The table so far."""
    return pd.read_csv(TABLE, dtype=str) if TABLE.exists() else pd.DataFrame(columns=COLUMNS)


def page():
    """Writes fundus.md."""
    table = read()
    table = table[table["network"] == "aerunet"]
    table["value"] = table["value"].astype(float)
    lines = [
        "# Fundus: optic cup and disc across cameras",
        "",
        "Made by `" + COMMAND + "` (2 cores, no GPU) from `fundus.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Mean over seeds, ± half the range between them where there are several; gap closed = "
        "(adapted − source only) / (oracle − source only) of the mean Dice of cup and disc, by "
        "seed. HD95 is MedPy's (95th percentile of the pooled surface distances), in px of the "
        "512 × 512 images.",
    ]
    for (source, target), split in SHIFTS.items():
        shift = table[(table["source"] == source) & (table["target"] == target)]
        if shift.empty:
            continue
        lines += [
            "",
            f"## {source} → {target} ({split} split)",
            "",
            "| method | seeds | Dice cup | Dice disc | mean Dice | gap closed | HD95 cup | "
            "HD95 disc | vCDR error | minutes |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        wide = shift.pivot_table(
            index=["method", "seed"], columns=["class", "metric"], values="value"
        )
        mean = (wide["cup", "dice"] + wide["disc", "dice"]) / 2
        for method in METHODS:
            if method not in wide.index.get_level_values("method"):
                continue
            own, seeds = wide.loc[method], mean.loc[method].index
            closed = [
                (mean[method, s] - mean["source_only", s])
                / (mean["oracle", s] - mean["source_only", s])
                for s in seeds
                if ("oracle", s) in mean.index and ("source_only", s) in mean.index
            ]
            minutes = shift[shift["method"] == method]["minutes"].astype(float).mean()
            cells = [
                method,
                ", ".join(seeds),
                _spread(own["cup", "dice"]),
                _spread(own["disc", "dice"]),
                _spread(mean.loc[method]),
                "–"
                if not closed or method in ("source_only", "oracle")
                else _spread(100 * np.array(closed), 0) + " %",
                _spread(own["cup", "hd95"], 1),
                _spread(own["disc", "hd95"], 1),
                _spread(own["cup", "vcdr_error"]),
                f"{minutes:.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    notes = HERE / "fundus_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / "fundus.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


def _spread(values, digits=3):
    values = np.asarray(values, float)
    half = (values.max() - values.min()) / 2
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {half:.{digits}f}"


if __name__ == "__main__":
    page() if "--page" in sys.argv else complete(sys.argv[1:] or [to for _, to in SHIFTS])
