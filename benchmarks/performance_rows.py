"""The works of the speed table: for each, what this project and each peer do, ready to be timed.

A row is a function from a party's name to a function without arguments that does the work once;
what it needs to load and to prepare happens before. `ROWS` names the parties of a row and the
goals: of a party, its time as a share of that of the slowest of the named ones.
"""

import functools
import json
import os
import sys
import tempfile
import time

import numpy as np
from performance_evaluation import VOLUME, distances, ellipsoids, evaluation, tumour
from performance_prediction import BARE, PARTS, PREDICTIONS, untrained_run
from performance_steps import (
    JAX,
    OURS,
    PEERS,
    TRAINED,
    TRAINED_ON_GPU,
    atrous_step,
    loading,
    regularisation,
    stochastic_passes,
    train_step,
)


def clahe(peer):
    """CLAHE of the luminance of a colour picture of 512 × 512."""
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    if peer == OURS:
        from keras_meduda.data.intensity import clahe

        return lambda: clahe(image)
    if peer == "opencv":
        import cv2

        equalise = cv2.createCLAHE(2.0, (8, 8))

        def opencv():
            y, cr, cb = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
            return cv2.cvtColor(cv2.merge([equalise.apply(y), cr, cb]), cv2.COLOR_YCrCb2RGB)

        return opencv
    from skimage.exposure import equalize_adapthist

    return lambda: equalize_adapthist(image)


def window(peer):
    """Windows of 64³, half overlapping, over 160 × 160 × 96 with a 1×1×1 network."""
    shape, size = (160, 160, 96), (64, 64, 64)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    if peer.startswith(OURS):
        import keras
        import tensorflow as tf

        import keras_meduda as km
        from keras_meduda.run.engines import logits_function
        from keras_meduda.run.sliding import SlidingWindow, sliding_window

        image = keras.Input((*size, 1))
        logits = keras.layers.Conv3D(2, 1)(image)
        network = keras.Model(image, {"logits": logits, "features": logits})
        x = x[None, ..., None]
        logits = tf.function(lambda x: network(x)["logits"])
        if peer != OURS:
            engine = peer.removeprefix(f"{OURS}, ")
            task, folder = km.Task(("a",)), tempfile.mkdtemp()
            shape = (*size, 1)
            logits = logits_function(lambda: network, "pointwise", shape, task, engine, folder)
        return lambda: sliding_window(logits, x, SlidingWindow(size))
    if peer == "medicai":
        import keras
        from medicai.utils.inference import sliding_window_inference

        network = keras.Sequential([keras.Input((*size, 1)), keras.layers.Conv3D(2, 1)])
        x = x[None, ..., None]
        return lambda: sliding_window_inference(x, network, 2, size, 1, overlap=0.5)
    import torch
    from monai.inferers import sliding_window_inference

    x, network = torch.from_numpy(x)[None, None], torch.nn.Conv3d(1, 2, 1)

    def monai():
        with torch.inference_mode():
            return sliding_window_inference(x, size, 1, network, overlap=0.5)

    return monai


def serving(peer):
    """A call of the SavedModel's signature; the peer is the network alone, in a `tf.function`."""
    import tensorflow as tf

    import keras_meduda as km

    run = untrained_run()
    network = run.network
    if peer == OURS:
        path = km.export(run, os.path.join(tempfile.mkdtemp(), "model"))
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        image = tf.zeros((1, 192, 192, 3), "uint8")
        return lambda: served(image=image)["cup"].numpy()
    bare, image = tf.function(lambda x: network(x)["logits"]), tf.zeros((1, 192, 192, 3))
    return lambda: bare(image).numpy()


METRICS = (OURS, "medpy", "monai (hd95 alone)", "deepmind (hd95 alone)")
PAIRS = {  # of masks, and the goal's share of MedPy's time
    "hd95_assd_3d": (functools.partial(ellipsoids, VOLUME), 1 / 20),
    "hd95_assd_3d_stray_voxel": (functools.partial(ellipsoids, VOLUME, stray=True), 1 / 20),
    "hd95_assd_3d_tumour": (tumour, 1 / 20),
    "hd95_assd_2d": (functools.partial(ellipsoids, (512, 512)), 1 / 15),
}
EVALUATED = (OURS, f"{OURS}, --medpy", "medpy, one core", "prediction alone")


def beside(peer, share=1.0):
    """The goal of this project alone: a share of a peer's time."""
    return {OURS: (share, (peer,))}


ROWS = {  # work: (function of the party, parties, goals)
    **{
        name: (functools.partial(distances, masks=masks), METRICS, beside("medpy", share))
        for name, (masks, share) in PAIRS.items()
    },
    "clahe_512": (clahe, (OURS, "opencv", "skimage"), beside("opencv")),
    "evaluate_1000_pictures_512": (
        functools.partial(evaluation, shape=(512, 512), count=1000),
        EVALUATED,
        beside("medpy, one core", 1 / 15),
    ),
    "evaluate_20_volumes": (
        functools.partial(evaluation, shape=VOLUME, count=20),
        EVALUATED,
        beside("medpy, one core", 1 / 15),
    ),
    **PREDICTIONS,
    "sliding_window_3d": (
        window,
        (OURS, "keras_meduda, onnxruntime", "monai", "medicai"),
        {party: (1.0, ("monai",)) for party in (OURS, "keras_meduda, onnxruntime")},
    ),
    **{
        f"train_step_{name}": (
            functools.partial(train_step, name=name, sizes=TRAINED),
            (OURS, *PEERS[name]),
            beside(PEERS[name][0], 0.6 if name == "RatLesNetV2" else 1.0),
        )
        for name in TRAINED
    },
    **{
        f"gpu_step_{name}": (
            functools.partial(train_step, name=name, sizes=TRAINED_ON_GPU),
            (OURS, JAX, PEERS[name][0]),
            {
                ours: (0.6 if name == "RatLesNetV2" else 1.0, (PEERS[name][0],))
                for ours in (OURS, JAX)
            },
        )
        for name in TRAINED_ON_GPU
    },
    "train_step_DeepLabV3Plus": (atrous_step, (OURS, "keras"), beside("keras", 0.6)),
    "train_step_UDA_CLR": (regularisation, (OURS, "supervised"), beside("supervised", 2.3)),
    "stochastic_passes_UDA_CLR": (
        stochastic_passes,
        (OURS, "whole passes"),
        beside("whole passes"),
    ),
    "loading_10_steps": (loading, (OURS, "cached batch"), beside("cached batch", 1.05)),
    "saved_model_call": (serving, (OURS, "bare network"), beside("bare network", 1.05)),
}
OWN_ENVIRONMENT = (
    *("medpy", "opencv", "skimage", "supervised", "cached batch", "bare network"),
    *("whole passes", "medpy, one core", "prediction alone", "keras", JAX),
    *(*BARE.values(), *PARTS),
)


def answer(**values):
    """One line to the process that holds the watch."""
    print("@" + json.dumps(values), flush=True)


if __name__ == "__main__":  # a party: says that it is ready, then works once for every line it gets
    name, peer = sys.argv[1:]
    try:
        work = ROWS[name][0](peer)
    except (ImportError, KeyError) as error:  # KeyError: MEDUDA_DATA is not set
        answer(missing=str(error))
        sys.exit()
    work()
    answer()
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
