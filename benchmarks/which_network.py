"""Size, speed and memory of every network for pictures, with each encoder of keras.applications.

python benchmarks/which_network.py            (writes which_network.csv and which_network.md)
python benchmarks/which_network.py --page     (writes which_network.md from which_network.csv)

Speed is the processor time, summed over two cores, of the shortest of five predictions of one
128 × 128 picture; each alternates with one by AERUNet, so that the ratio holds on a machine that
does other work as well. Memory is counted: 4 bytes for each weight, its gradient and Adam's two
moments, and for each value that the layers give of a batch of eight such pictures.
"""

import csv
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as keras_meduda, but before Keras

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_meduda.data.io import replacing
from keras_meduda.models import AERUNet, DeepLabV3Plus, UNet, UNetPlusPlus, UNetS5D16
from keras_meduda.models.encoders import BACKBONES
from keras_meduda.models.stages import leaves

TABLE = Path(__file__).with_suffix(".csv")
COMMAND = "python benchmarks/which_network.py"
OWN = {build.__name__: build for build in (AERUNet, UNet, UNetPlusPlus, DeepLabV3Plus, UNetS5D16)}
NETWORKS = {(name, "-"): build for name, build in OWN.items() if build is not DeepLabV3Plus}
NETWORKS |= {
    (name, backbone): partial(OWN[name], backbone=backbone)
    for name in ("UNet", "AERUNet", "UNetPlusPlus", "DeepLabV3Plus")
    for backbone in BACKBONES
}
METRICS = {"parameters": "million", "prediction": "ms", "times AERUNet": "1", "memory": "MB"}
SHAPE = (128, 128, 3)


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


def measure(network, rival):
    """The four values of a network."""
    once = predicting(network)
    own, theirs = np.min([(once(), rival()) for _ in range(5)], axis=0)
    return network.count_params() / 1e6, own, own / theirs, megabytes(network)


def main():
    """Measures all networks and writes the table, as far as it is, after each of them."""
    rival = predicting(AERUNet(SHAPE, 2))
    rows = [("network", "backbone", "metric", "value", "unit", "command")]
    for key, build in NETWORKS.items():
        values = measure(build(SHAPE, 2), rival)
        for (metric, unit), value in zip(METRICS.items(), values, strict=True):
            rows.append((*key, metric, f"{value:.4g}", unit, COMMAND))
        print(*key, *(row[3] for row in rows[-4:]), flush=True)
        with replacing(TABLE) as unfinished, open(unfinished, "w", newline="") as file:
            csv.writer(file).writerows(rows)


def write_page():
    """The same as a Markdown table."""
    index = ["network", "backbone"]
    table = pd.read_csv(TABLE).pivot(index=index, columns="metric", values="value")
    lines = [
        "| network | backbone | parameters (million) | prediction (ms) | times AERUNet | "
        "memory (MB) |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| `{name}` | {backbone} | {row['parameters']:.1f} | {row['prediction']:.0f} | "
            f"{row['times AERUNet']:.2f} | {row['memory']:.0f} |"
            for (name, backbone), row in table.iterrows()
        ),
    ]
    with replacing(TABLE.with_suffix(".md")) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if "--page" not in sys.argv:
        main()
    write_page()
