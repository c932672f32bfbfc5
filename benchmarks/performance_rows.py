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


def ellipsoids(shape, stray=False):
    """Two overlapping ellipsoids, a prediction and its reference, perhaps with a far voxel."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]

    def ellipsoid(centre, radius):
        terms = [
            ((a - c * n) / (r * n)) ** 2
            for a, c, r, n in zip(axes, centre, radius, shape, strict=True)
        ]
        return functools.reduce(np.add, terms) <= 1

    rank = len(shape)
    prediction = ellipsoid((0.5, 0.5, 0.5)[:rank], (0.2, 0.15, 0.25)[:rank])
    reference = ellipsoid((0.52, 0.5, 0.48)[:rank], (0.18, 0.17, 0.24)[:rank])
    if stray:
        prediction[(0,) * rank] = True
    return prediction, reference


def tumour():
    """The tumour of a BraTS subject in 240 × 240 × 155, and a ragged prediction of it."""
    import nibabel
    from scipy.ndimage import gaussian_filter

    path = sorted(Path(os.environ["MEDUDA_DATA"]).glob("brats/**/*_seg.nii.gz"))[0]
    cropped = np.asarray(nibabel.load(path).dataobj) > 0
    noise = gaussian_filter(np.random.default_rng(0).normal(size=cropped.shape), 2)
    ragged = gaussian_filter(cropped.astype("float32"), 2) + noise > 0.5
    margins = [
        ((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(VOLUME, cropped.shape, strict=True)
    ]
    return np.pad(ragged, margins), np.pad(cropped, margins)


def distances(peer, masks):
    """HD95 and ASSD of one pair of masks (HD95 alone where a peer has no ASSD to give)."""
    p, r = masks()
    shape = p.shape
    if peer == OURS:
        from keras_meduda.evaluation.metrics import case_metrics

        return lambda: case_metrics(p, r, (1.0,) * len(shape))
    if peer == "medpy":
        from medpy.metric import binary

        return lambda: (binary.hd95(p, r), binary.assd(p, r))
    if peer == "monai (hd95 alone)":
        import torch
        from monai.metrics import compute_hausdorff_distance

        pair = [torch.from_numpy(np.stack([~m, m])[None]).float() for m in (p, r)]
        return lambda: compute_hausdorff_distance(*pair, percentile=95)
    from surface_distance import metrics

    def deepmind():
        found = metrics.compute_surface_distances(p, r, (1.0,) * len(shape))
        return metrics.compute_robust_hausdorff(found, 95)

    return deepmind


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
    if peer == OURS:
        import keras
        import tensorflow as tf

        from keras_meduda.sliding import SlidingWindow, sliding_window

        network = keras.layers.Conv3D(2, 1)
        network.build((None, *size, 1))
        network, x = tf.function(network), x[None, ..., None]
        return lambda: sliding_window(network, x, SlidingWindow(size))
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


def untrained_run():
    """AERUNet for pictures of 192 × 192 as it starts."""
    import keras_meduda as km
    from keras_meduda.training import Run

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
VOLUME = (240, 240, 155)
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
    "sliding_window_3d": (window, (OURS, "monai", "medicai"), 1.0, "monai"),
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
        (OURS, "keras_meduda, mixed_bfloat16", "keras_meduda, XLA", "onnxruntime", "openvino"),
        1.15,
        "onnxruntime",
    ),
    "saved_model_call": (serving, (OURS, "bare network"), 1.05, "bare network"),
}
OWN_ENVIRONMENT = (
    *("medpy", "opencv", "skimage", "medicai", "onnxruntime", "openvino"),
    *("supervised", "cached batch", "bare network", "whole passes", JAX),
    *("keras_meduda, mixed_bfloat16", "keras_meduda, XLA"),
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
