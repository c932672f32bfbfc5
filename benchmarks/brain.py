"""Ventricles of mice by transfer from rats' lesions.

MEDUDA_DATA=… python benchmarks/brain.py          (completes brain.csv, then writes brain.md)
MEDUDA_DATA=… python benchmarks/brain.py unetr 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/brain.py --page   (writes brain.md from brain.csv)

RatLesNetV2 and MONAI's networks on patches of 16 coronal slices of 48 × 48, 0.45 mm thick, of
pixels of 0.2 mm, 300 steps of 1, on wild type mice, tested on 6 transgenic ones, whose ventricles
are enlarged; RatLesNetV2 with its own loss, the others with the mouse study's Dice of both classes.
Adam, weights of the last step, distances in mm.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

from tables import RUNS, data_root, main, markdown, mean_scores, read, spread, trained

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.subset import balanced_subset, lesion_volumes
from keras_meduda.experiment.data import Data
from keras_meduda.recipes import ratlesnet

WORK = RUNS / "brain_benchmark"
STEPS = 300
PARTS = {"scratch": "none", "partial": "partial", "full": "full"}
COUNTS = (2, 4, 6)
NETWORKS = ("unet", "dynunet", "unetr")  # of MONAI


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
        epoch=STEPS // 10,
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
    values.append(("all", "seconds_per_step", 60 * minutes / STEPS, "s"))
    return values, minutes


def wanted():
    """Row sets in the order in which they are made."""
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
        "# Brain volumes: ventricles of mice by transfer",
        "",
        "Made by `python benchmarks/brain.py` (2 cores, no GPU) from `brain.csv`; do not edit.",
        "",
        __doc__.split("\n\n")[2].strip().replace("\n", " "),
        "Mean over test cases; ± is half the range between seeds where there are several. HD95 is "
        "MedPy's (95th percentile of the pooled surface distances). Minutes are wall time. Tumours "
        "across contrasts are shifts of `shifts.md`.",
        "",
        *mouse_table(table),
    )


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
