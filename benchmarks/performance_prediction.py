"""The works of the speed table that predict: one picture, folders of pictures and of volumes.

A party is this project on one engine (`keras_meduda` is TensorFlow's), an engine alone, or one of
the three parts of a folder alone: decoding, an engine, encoding.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from performance_steps import OURS

ON = {OURS: "tensorflow", f"{OURS}, onnxruntime": "onnxruntime", f"{OURS}, openvino": "openvino"}
BARE = {engine: f"{engine} alone" for engine in ON.values()}
PARTS = ("decoding alone", "encoding alone")


def goals(share, *beside):
    """Of each engine's party: a share of the slowest of the bare engine and the parts."""
    return {party: (share, (BARE[engine], *beside)) for party, engine in ON.items()}


def untrained_run():
    """AERUNet for pictures of 192 × 192 as it starts."""
    import keras_meduda as km
    from keras_meduda.run import Run

    network = km.models.AERUNet((192, 192, 3), channels=2, filters=(16, 32, 64, 128))
    task = km.Task(classes=("cup", "disc"), overlapping=True)
    return Run(None, network, task, km.Preprocessing(size=(192, 192)))


def volume_run(shape):
    """AERUNet in windows of 64³, half overlapping, as it starts."""
    import keras_meduda as km
    from keras_meduda.run import Run

    size = (64, 64, 64)
    network = km.models.AERUNet((*size, 1), channels=2, filters=(8, 16, 32))
    settings = km.Preprocessing(shape, normalise="zscore", channels=1, axes="XYZ")
    return Run(None, network, km.Task(("a",)), settings, km.SlidingWindow(size))


def on_engine(run, engine):
    """The run on an engine, whose graph it keeps in a folder of its own."""
    return replace(run, path=Path(tempfile.mkdtemp()), engine=engine)


def bare(run, engine, x):
    """An engine alone on an input, of the network's logits."""
    import keras_meduda as km

    if engine == "tensorflow":
        import tensorflow as tf

        network, x = tf.function(lambda x: run.network(x)["logits"]), tf.constant(x)
        return lambda: network(x).numpy()
    path = km.export_network(run, os.path.join(tempfile.mkdtemp(), "network.onnx"))
    if engine == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda: session.run(None, {"image": x})
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: compiled(x)


def engine_of(party):
    """The engine of a party that is one alone."""
    return party.removesuffix(" alone")


def picture(party):
    """`km.predict` of one picture of 192 × 192; the peer is the engine on the network's input."""
    import keras_meduda as km
    from keras_meduda.models.stages import set_precision

    run = untrained_run()
    if not party.startswith(OURS):
        return bare(run, engine_of(party), np.zeros((1, 192, 192, 3), "float32"))
    if party.endswith("mixed_bfloat16"):
        set_precision(run.network, "mixed_bfloat16")
    if party.endswith("XLA"):
        run = replace(run, xla=True)
    if party in ON:
        run = on_engine(run, ON[party])
    image = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype="uint8")
    return lambda: km.predict(run, image)


def folder_of_pictures(party, count=200):
    """A folder of pictures of 512 × 512 to masks in files."""
    from keras_meduda.data.io import write_picture

    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
    picture = coarse.repeat(8, 0).repeat(8, 1)
    path = str(write_picture(Path(tempfile.mkdtemp()) / "image.png", picture))
    return folder(party, untrained_run(), path, count, together=8)


def folder_of_volumes(party, count=4):
    """A folder of volumes of 96³, each of eight windows, to masks in files."""
    import nibabel

    shape, path = (96, 96, 96), Path(tempfile.mkdtemp()) / "image.nii.gz"
    array = np.random.default_rng(0).normal(size=shape).astype("float32")
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return folder(party, volume_run(shape), str(path), count, together=1)


def folder(party, run, path, count, together):
    """The same image so many times: from its file to a mask in a file, or a part of the way."""
    import keras_meduda as km
    from keras_meduda.data.io import write_mask
    from keras_meduda.evaluation.predict import _input, predict_all

    masks = Path(tempfile.mkdtemp())

    def encode(probabilities, i):
        values = run.task.decode(run.task.masks(probabilities))
        write_mask(masks / str(i % 8), values, like=path)

    if party in ON:
        run = on_engine(run, ON[party])

        def ours():
            for i, probabilities in enumerate(predict_all(run, [path] * count)):
                encode(probabilities, i)

        return ours
    if party == "decoding alone":
        return lambda: [_input(run, path) for _ in range(count)]
    if party == "encoding alone":
        probabilities = km.predict(run, path)
        return lambda: [encode(probabilities, i) for i in range(count)]
    x = np.stack([_input(run, path)[0]] * together)
    if run.window:  # the engine sees windows alone
        windows = run.window.count(run.preprocessing.size)
        x = np.ascontiguousarray(x[:, :64, :64, :64])
        once = bare(run, engine_of(party), x)
        return lambda: [once() for _ in range(count * windows)]
    once = bare(run, engine_of(party), x)
    return lambda: [once() for _ in range(count // together)]


def window_of_network(party):
    """Windows of 64³, half overlapping, over 128³ with AERUNet, and an engine alone as often."""
    from keras_meduda.run.sliding import sliding_window

    shape = (128, 128, 128)
    run = volume_run(shape)
    x = np.random.default_rng(0).normal(size=(1, *shape, 1)).astype("float32")
    if party in ON:
        run = on_engine(run, ON[party])
        return lambda: sliding_window(run.logits, x, run.window)
    once = bare(run, engine_of(party), np.ascontiguousarray(x[:, :64, :64, :64]))
    return lambda: [once() for _ in range(run.window.count(shape))]


PREDICTIONS = {  # work: (function of the party, parties, goals)
    "picture_192": (
        picture,
        (*ON, f"{OURS}, mixed_bfloat16", f"{OURS}, XLA", *BARE.values()),
        goals(1.1),
    ),
    "folder_of_200_pictures": (
        folder_of_pictures,
        (*ON, *BARE.values(), *PARTS),
        goals(1.15, *PARTS),
    ),
    "folder_of_4_volumes": (folder_of_volumes, (*ON, *BARE.values(), *PARTS), goals(1.15, *PARTS)),
    "sliding_window_AERUNet": (window_of_network, (*ON, *BARE.values()), goals(1.0)),
}
