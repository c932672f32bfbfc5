"""Size, speed, memory and Dice of every network for pictures, with encoders of keras.applications.

MEDUDA_DATA=… python benchmarks/which_network.py        (completes which_network.csv and its page)
python benchmarks/which_network.py cost                 (only rows with this word)
python benchmarks/which_network.py --page               (writes which_network.md)

Cost is that of default filters and two classes. Speed is the processor time, summed over two cores,
of the shortest of five predictions of one 128 × 128 picture; each alternates with one by AERUNet,
so that the ratio holds on a machine that does other work as well. Memory is counted: 4 bytes for
each weight, its gradient and Adam's two moments, and for each value that the layers give of a batch
of eight such pictures.

Dice is that of a training on one domain, on its own test part: 128 × 128, 400 steps of 8, decoders
with filters 8…128, seed 0. An own encoder begins with random weights, MobileNetV2 with ImageNet's.
"""

import time
from functools import partial

import fundus
import keras
import numpy as np
import tensorflow as tf
from tables import RUNS, data_root, main, markdown, mean_scores, read, trained

import keras_meduda as km
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.one_domain import task_of
from keras_meduda.experiment.recipe import Recipe, Stage, supervised
from keras_meduda.models import AERUNet, DeepLabV3Plus, UNet, UNetPlusPlus, UNetS5D16
from keras_meduda.models.encoders import BACKBONES
from keras_meduda.models.stages import leaves

COLUMNS = ("network", "backbone", "of")
WORK = RUNS / "which_network_benchmark"
SHAPE = (128, 128, 3)
FILTERS = {"filters": (8, 16, 32, 64, 128)}
OWN = {build.__name__: build for build in (AERUNet, UNet, UNetPlusPlus, DeepLabV3Plus, UNetS5D16)}
LEARNING = {  # whose Dice is measured; DeepLabV3+ has no encoder of its own
    **{(name, "-"): partial(OWN[name], **FILTERS) for name in ("UNet", "AERUNet", "UNetPlusPlus")},
    **{
        (name, "mobilenetv2"): fundus.from_imagenet(OWN[name], **FILTERS)
        for name in ("UNet", "AERUNet", "UNetPlusPlus")
    },
    ("DeepLabV3Plus", "mobilenetv2"): fundus.from_imagenet(DeepLabV3Plus),
}
DOMAINS = {  # name on the page: table and domain in the folder of shifts, class
    "nuclei": ("nuclei", "nuc_f256", "nucleus=1"),
    "left ventricle": ("left_ventricle", "acdc", "ventricle=1"),
}


def costs(build):
    """Parameters, speed and memory of a network, and the minutes that it took."""

    def measured():
        network = build(SHAPE, 2)
        once, rival = (predicting(net) for net in (network, AERUNet(SHAPE, 2)))
        own, theirs = np.min([(once(), rival()) for _ in range(5)], axis=0)
        yield "", "parameters", network.count_params() / 1e6, "million"
        yield "", "prediction", own, "ms"
        yield "", "times AERUNet", own / theirs, "1"
        yield "", "memory", megabytes(network), "MB"

    begin = time.perf_counter()
    return list(measured()), (time.perf_counter() - begin) / 60


def predicting(network):
    """A function that predicts once and gives the milliseconds of processor time that it took."""
    image = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, *SHAPE)), "float32")
    predict = tf.function(lambda x: network(x, training=False)["logits"])
    predict(image)

    def once():
        begin = time.process_time()
        predict(image).numpy()
        return 1e3 * (time.process_time() - begin)

    return once


def megabytes(network):
    """Of one training step of eight pictures."""
    values = sum(
        int(np.prod(tensor.shape[1:]))
        for layer in leaves(network)
        for tensor in keras.tree.flatten(layer.output)
    )
    return 4 * (4 * network.count_params() + 8 * values) / 1e6


def cases_of(name):
    """Training and test part of one domain, with its task."""
    if name == "fundus":
        cases, task = fundus.domain("refuge")
    else:
        table, domain, label = DOMAINS[name]
        cases = km.read_cases(data_root() / "shifts" / table / "cases.csv")
        cases = cases[cases["domain"] == domain]
        task = task_of((label,), cases)
    train, test = (cases[cases["split"] == split] for split in ("train", "test"))
    return Data(task, {"source": train}, {"source, test": test}, name)


def learnt(build, name, key):
    """Metrics of a training on one domain, and its minutes."""
    data = cases_of(name)
    recipe = Recipe(
        title="Which network",
        network=build,
        preprocessing=km.Preprocessing(SHAPE[:2]),
        steps=400,
        stages={"source_only": Stage(supervised)},
    )
    run, minutes = trained(recipe, data, "source_only", WORK / "-".join(key))
    return mean_scores(km.evaluate(run, data.tests["source, test"], data.task)), minutes


def wanted():
    """Costs of every network, and the Dice of some."""
    for name, build in OWN.items():
        if build is not DeepLabV3Plus:
            yield (name, "-", "cost"), partial(costs, build)
        if build is not UNetS5D16:
            for backbone in BACKBONES:
                yield (name, backbone, "cost"), partial(costs, partial(build, backbone=backbone))
    for of in ("fundus", *DOMAINS):
        for key, build in LEARNING.items():
            yield (*key, of), partial(learnt, build, of, (*key, of))


def page():
    """One table: a line a network and encoder."""
    table = read("which_network", COLUMNS).astype({"value": float})
    cost = table[table["of"] == "cost"].pivot(
        index=["network", "backbone"], columns="metric", values="value"
    )
    dice = table[table["metric"] == "dice"].groupby(["network", "backbone", "of"])["value"].mean()
    columns = ("fundus", *DOMAINS)
    yield from markdown(
        (
            "network", "backbone", "parameters (million)", "prediction (ms)", "times AERUNet",
            "memory (MB)", *(f"Dice, {of}" for of in columns),
        ),
        (
            (
                f"`{name}`",
                backbone,
                f"{row['parameters']:.1f}",
                f"{row['prediction']:.0f}",
                f"{row['times AERUNet']:.2f}",
                f"{row['memory']:.0f}",
                *(
                    f"{dice[name, backbone, of]:.3f}" if (name, backbone, of) in dice else "–"
                    for of in columns
                ),
            )
            for (name, backbone), row in cost.iterrows()
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main("which_network", wanted(), page, COLUMNS)
