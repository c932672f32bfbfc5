"""The works of the speed table: for each, what this project and each peer do, ready to be timed.

A row is a function from a peer's name to a function without arguments that does the work once; what
it needs to load and to prepare happens before. `ROWS` names the peers of a row and the goal: this
project's time as a share of the named peer's.
"""

import functools
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from performance_evaluation import VOLUME, distances, ellipsoids, evaluation, tumour
from performance_steps import (
    JAX,
    OURS,
    PEERS,
    TRAINED,
    TRAINED_ON_GPU,
    loading,
    regularisation,
    stochastic_passes,
    train_step,
)


def folder_of_pictures(peer, count=200):
    """A folder of pictures to masks in files, and its three parts alone."""
    import keras_meduda as km
    from keras_meduda.data.io import write_mask, write_picture
    from keras_meduda.evaluation.predict import _input, predict_all

    run, folder = untrained_run(), Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype="uint8").repeat(8, 0).repeat(8, 1)
    path = str(write_picture(folder / "image.png", picture))

    def encode(probabilities, i):
        values = run.task.decode(run.task.masks(probabilities))
        write_mask(folder / "masks" / str(i % 8), values, like=path)

    if peer == "reading alone":
        return lambda: [_input(run, path) for _ in range(count)]
    inputs = np.stack([_input(run, path)[0]] * 8)
    if peer == "network alone":
        return lambda: [run.probabilities(inputs) for _ in range(count // 8)]
    if peer == "writing alone":
        probabilities = km.predict(run, path)
        return lambda: [encode(probabilities, i) for i in range(count)]

    def ours():
        for i, probabilities in enumerate(predict_all(run, [path] * count)):
            encode(probabilities, i)

    return ours


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
        network, x = keras.Model(image, {"logits": logits}), x[None, ..., None]
        logits = tf.function(lambda x: network(x)["logits"])
        if peer != OURS:
            engine = peer.removeprefix(f"{OURS}, ")
            task, folder = km.Task(("a",)), tempfile.mkdtemp()
            logits = logits_function(network, (*size, 1), task, engine, folder)
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


def window_of_network(peer):
    """Windows of 64³, half overlapping, over 128³ with AERUNet, and the network alone as often."""
    import keras_meduda as km
    from keras_meduda.run import Run

    size, shape = (64, 64, 64), (128, 128, 128)
    network = km.models.AERUNet((*size, 1), channels=2, filters=(8, 16, 32))
    settings = km.Preprocessing(shape, normalise="zscore", channels=1, axes="XYZ")
    slide = km.SlidingWindow(size)
    run = Run(None, network, km.Task(("a",)), settings, slide)
    x = np.random.default_rng(0).normal(size=(1, *shape, 1)).astype("float32")
    if peer == OURS:
        from keras_meduda.run.sliding import sliding_window

        return lambda: sliding_window(run.logits, x, slide)
    windows = np.prod([len(starts) for starts in slide.starts(shape)])
    one = np.ascontiguousarray(x[:, :64, :64, :64])
    return lambda: [np.asarray(run.logits(one)) for _ in range(windows)]


def untrained_run():
    """AERUNet for pictures of 192 × 192 as it starts."""
    import keras_meduda as km
    from keras_meduda.run import Run

    network = km.models.AERUNet((192, 192, 3), channels=2, filters=(16, 32, 64, 128))
    task = km.Task(classes=("cup", "disc"), overlapping=True)
    return Run(None, network, task, km.Preprocessing(size=(192, 192)))


def inference(peer):
    """The network on one picture, in TensorFlow and from the ONNX file that we write of it."""
    import keras_meduda as km
    from keras_meduda.models.stages import set_precision

    run, x = untrained_run(), np.zeros((1, 192, 192, 3), "float32")
    if peer == "keras_meduda, mixed_bfloat16":
        set_precision(run.network, "mixed_bfloat16")
    if peer == "keras_meduda, XLA":
        run = replace(run, xla=True)
    if peer.endswith(" engine"):
        engine, folder = peer.split()[1], Path(tempfile.mkdtemp())
        run = replace(run, path=folder, engine=engine)
    if peer.startswith(OURS):
        return lambda: run.probabilities(x)
    path = km.export_network(run, os.path.join(tempfile.mkdtemp(), "network.onnx"))
    if peer == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda: session.run(None, {"image": x})
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: compiled(x)


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
ROWS = {  # work: (function of the peer, peers, goal's share, of whom)
    **{
        name: (functools.partial(distances, masks=masks), METRICS, share, "medpy")
        for name, (masks, share) in PAIRS.items()
    },
    "clahe_512": (clahe, (OURS, "opencv", "skimage"), 1.0, "opencv"),
    "evaluate_30_pictures_512": (
        functools.partial(evaluation, shape=(512, 512), count=30),
        (OURS, "medpy, one core", "prediction alone"),
        1 / 15,
        "medpy, one core",
    ),
    "evaluate_2_volumes": (
        functools.partial(evaluation, shape=VOLUME, count=2),
        (OURS, "medpy, one core", "prediction alone"),
        1 / 15,
        "medpy, one core",
    ),
    "folder_of_200_pictures": (
        folder_of_pictures,
        (OURS, "reading alone", "network alone", "writing alone"),
        1.15,
        "reading alone",
    ),
    "sliding_window_3d": (
        window,
        (OURS, "keras_meduda, onnxruntime", "monai", "medicai"),
        1.0,
        "monai",
    ),
    "sliding_window_AERUNet": (
        window_of_network,
        (OURS, "bare network"),
        1.0,
        "bare network",
    ),
    **{
        f"train_step_{name}": (
            functools.partial(train_step, name=name, sizes=TRAINED),
            (OURS, *PEERS[name]),
            0.6 if name == "RatLesNetV2" else 1.0,
            PEERS[name][0],
        )
        for name in TRAINED
    },
    **{
        f"gpu_step_{name}": (
            functools.partial(train_step, name=name, sizes=TRAINED_ON_GPU),
            (OURS, JAX, PEERS[name][0]),
            0.6 if name == "RatLesNetV2" else 1.0,
            PEERS[name][0],
        )
        for name in TRAINED_ON_GPU
    },
    "train_step_UDA_CLR": (regularisation, (OURS, "supervised"), 3.0, "supervised"),
    "stochastic_passes_UDA_CLR": (stochastic_passes, (OURS, "whole passes"), 1.0, "whole passes"),
    "loading_10_steps": (loading, (OURS, "cached batch"), 1.05, "cached batch"),
    "inference_192": (
        inference,
        (
            *(OURS, "keras_meduda, mixed_bfloat16", "keras_meduda, XLA"),
            *("keras_meduda, onnxruntime engine", "keras_meduda, openvino engine"),
            *("onnxruntime", "openvino"),
        ),
        1.15,
        "onnxruntime",
    ),
    "saved_model_call": (serving, (OURS, "bare network"), 1.05, "bare network"),
}
OWN_ENVIRONMENT = (
    *("medpy", "opencv", "skimage", "medicai", "onnxruntime", "openvino"),
    *("supervised", "cached batch", "bare network", "whole passes", JAX),
    *("keras_meduda, mixed_bfloat16", "keras_meduda, XLA", "keras_meduda, onnxruntime"),
    *("keras_meduda, onnxruntime engine", "keras_meduda, openvino engine"),
    *("medpy, one core", "prediction alone", "reading alone", "network alone", "writing alone"),
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
