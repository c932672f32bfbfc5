"""SavedModel for TensorFlow Serving: images in as they are, probabilities out in their grid."""

import shutil
import uuid
from pathlib import Path

import tensorflow as tf

from keras_meduda.data.serving import preprocess, resize


def export(run, path) -> Path:
    """Writes a SavedModel with the preprocessing inside; needs no keras_meduda to be served.

    Its signature `serving_default` takes uint8 `image (batch, H, W, channels)` of any size and
    gives one float32 probability map `(batch, H, W)` a class, named like the class.

    Args:
        run: what `km.load` or `km.fit` returns.
        path: folder to write; nothing is there unless it is complete.

    Returns:
        The path.

    Raises:
        FileExistsError: there is something at `path` already.
        NotImplementedError: the network is not two-dimensional.

    Example:
        >>> import keras_meduda as km
        >>> path = km.export(getfixture("run"), getfixture("tmp_path") / "model")
        >>> served = tf.saved_model.load(str(path)).signatures["serving_default"]
        >>> sorted(served(image=tf.zeros((1, 40, 50, 3), "uint8")))
        ['cup', 'disc']
    """
    path, task, preprocessing = Path(path), run.task, run.preprocessing
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or remove it.")
    if len(preprocessing.size) != 2:
        raise NotImplementedError(
            f"export serves 2D networks; this one has size {preprocessing.size}."
        )
    module = tf.Module()
    module.network = run.network  # so that its variables are saved
    probabilities = run.probabilities.python_function
    first = 0 if task.overlapping else 1

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, preprocessing.channels), tf.uint8, name="image")
        ]
    )
    def serve(image):
        maps = resize(probabilities(preprocess(image, preprocessing)), tf.shape(image)[1:3])
        return {name: maps[..., first + i] for i, name in enumerate(task.classes)}

    module.serve = serve
    unfinished = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        tf.saved_model.save(module, str(unfinished), signatures={"serving_default": serve})
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path
