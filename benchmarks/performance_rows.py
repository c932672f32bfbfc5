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

OURS = "keras_meduda"
JAX = "keras_meduda on jax"


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


def ours_step(network, image_shape, channels):
    """One step of Adam on the cross-entropy of a fixed batch, as `km.fit` takes it."""
    import keras
    import tensorflow as tf

    import keras_meduda as km

    method = km.methods.Supervised(network, overlapping=False, loss=km.losses.cross_entropy)
    method.compile(keras.optimizers.Adam(1e-3))
    method.build()
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=image_shape), "float32")
    mask = tf.one_hot(rng.integers(0, channels, image_shape[:-1]), channels)
    batch = {"source": {"image": image, "mask": mask}}
    compiled = bool(tf.config.list_physical_devices("GPU"))
    step = tf.function(method.train_step, jit_compile=compiled)
    return lambda: step(batch)["loss"].numpy()


def jax_step(network, image_shape, channels):
    """The same step of the bare network on the JAX backend, compiled whole."""
    import jax
    import keras

    import keras_meduda as km

    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)
    rng = np.random.default_rng(0)
    image = rng.normal(size=image_shape).astype("float32")
    mask = np.eye(channels, dtype="float32")[rng.integers(0, channels, image_shape[:-1])]

    @jax.jit
    def step(weights, others, moments):
        def loss_of(weights):
            outputs, after = network.stateless_call(weights, others, image, training=True)
            return km.losses.cross_entropy(mask, outputs["logits"], overlapping=False), after

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        weights, moments = optimizer.stateless_apply(moments, gradients, weights)
        return loss, (weights, others, moments)

    states = network.trainable_variables, network.non_trainable_variables, optimizer.variables
    state = [tuple([variable.value for variable in part]) for part in states]

    def work():
        nonlocal state
        loss, state = step(*state)
        loss.block_until_ready()

    return work


def train_step(peer, name, sizes):
    """One training step of the same network on the same batch."""
    spatial, channels, image, batch = sizes[name]
    if peer in (OURS, JAX):
        if peer == JAX:
            os.environ["KERAS_BACKEND"] = "jax"
        import keras_meduda as km

        network = getattr(km.models, name)((*spatial, image), channels, **OURS_SETTINGS[name])
        step = jax_step if peer == JAX else ours_step
        return step(network, (batch, *spatial, image), channels)
    from torch_networks import AERUNet, RatLesNetV2, UNetPlusPlus, training_step

    if peer == "monai":
        from monai.networks import nets

        network = {
            "UNet": lambda: nets.UNet(3, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2),
            "DynUNet": lambda: nets.DynUNet(
                3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], (16, 32, 64, 128), res_block=False
            ),
            "UNETR": lambda: nets.UNETR(1, 2, spatial, hidden_size=192, mlp_dim=768, num_heads=4),
        }[name]()
    elif peer == "smp (resnet18 encoder)":
        from segmentation_models_pytorch import UnetPlusPlus

        network = UnetPlusPlus("resnet18", encoder_weights=None, classes=2)
    else:
        own = {"AERUNet": AERUNet, "RatLesNetV2": RatLesNetV2, "UNetPlusPlus": UNetPlusPlus}
        network = own[name](2)
    return training_step(network, (batch, image, *spatial), channels)


TRAINED = {  # spatial size, logit channels, image channels, batch
    "AERUNet": ((48, 48, 48), 2, 1, 1),
    "RatLesNetV2": ((32, 96, 96), 2, 1, 1),
    "UNet": ((48, 48, 48), 2, 1, 1),
    "DynUNet": ((48, 48, 48), 2, 1, 1),
    "UNETR": ((48, 48, 48), 2, 1, 1),
    "UNetPlusPlus": ((128, 128), 2, 3, 1),
}
TRAINED_ON_GPU = {
    **{name: ((96, 96, 96), 2, 1, 2) for name in ("AERUNet", "UNet", "DynUNet", "UNETR")},
    "RatLesNetV2": ((32, 96, 96), 2, 1, 8),
    "UNetPlusPlus": ((256, 256), 2, 3, 16),
}
OURS_SETTINGS = {
    "AERUNet": {"filters": (16, 32, 64, 128)},
    "RatLesNetV2": {},
    "UNet": {"filters": (16, 32, 64, 128), "norm": "instance"},
    "DynUNet": {
        "filters": (16, 32, 64, 128),
        "kernel_sizes": (3,) * 4,
        "strides": (1, 2, 2, 2),
    },
    "UNETR": {"hidden": 192, "mlp": 768, "heads": 4},
    "UNetPlusPlus": {},
}


def phantom_batches(folder, size=96, batch=8):
    """Batches of the fundus phantoms, prepared in a folder."""
    import keras_meduda as km
    from keras_meduda.data.phantoms import write_fundus
    from keras_meduda.data.pipeline import Batches, prepare

    cases = km.read_cases(write_fundus(folder, cases_per_domain=16, size=size))
    values = {"cup": (255,), "disc": (128, 255)}
    task = km.Task(classes=("cup", "disc"), overlapping=True, values=values)
    preprocessing = km.Preprocessing(size=(size, size), intensity=("clahe",))
    source = cases[cases["domain"] == "camera_a"]
    return Batches(batch, source=prepare(source, task, preprocessing, folder, labels=True))


def small_method(size=96):
    """AERUNet with a supervised loss and Adam."""
    import keras

    import keras_meduda as km

    with km.setup():
        network = km.models.AERUNet((size, size, 3), channels=2, filters=(8, 16, 32, 64))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    method.build()
    return method


def loading(peer):
    """A training step with real loading and augmentation; the peer is a batch that is kept."""
    import tensorflow as tf

    batches = iter(phantom_batches(tempfile.mkdtemp()).from_step(0))
    step, kept = tf.function(small_method().train_step), next(batches)
    if peer == OURS:
        return lambda: [step(next(batches))["loss"].numpy() for _ in range(10)]
    return lambda: [step(kept)["loss"].numpy() for _ in range(10)]


def regularisation(peer):
    """A full step of UDA_CLR, 8 + 8 images of 192² and 8 passes; the peer sees 16 with masks."""
    import keras
    import tensorflow as tf

    import keras_meduda as km

    rng, side = np.random.default_rng(0), 192

    def images(count, channels=3):
        return tf.constant(rng.random((count, side, side, channels), "float32"))

    network = km.models.DeepLabV3Plus((side, side, 3), channels=2)
    if peer == OURS:
        method = km.methods.CategoryRegularization(network, overlapping=True, warm_up=0.0)
        batch = {"source": {"image": images(8), "mask": tf.round(images(8, 2))}}
        batch["source"]["boundary"] = images(8, 1)
        batch["target"] = {"image": images(8), "strong": images(8)}
    else:
        method = km.methods.Supervised(network, overlapping=True)
        batch = {"source": {"image": images(16), "mask": tf.round(images(16, 2))}}
    method.compile(keras.optimizers.Adam(1e-3), discriminator_optimizer=keras.optimizers.SGD())
    method.total_steps = 1000
    method.build()
    step = tf.function(method.train_step)
    return lambda: step(batch)["loss"].numpy()


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
PEERS = {  # of the training steps; the first is the one that counts
    **dict.fromkeys(("DynUNet", "UNETR"), ("monai",)),
    "UNet": ("monai", JAX),
    **dict.fromkeys(("AERUNet", "RatLesNetV2"), ("pytorch",)),
    "UNetPlusPlus": ("pytorch", "smp (resnet18 encoder)", JAX),
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
    *("supervised", "cached batch", "bare network", JAX),
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
