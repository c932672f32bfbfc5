"""SavedModel for TensorFlow Serving: images in as they are, probabilities or masks out."""

import shutil
import uuid
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_meduda import losses
from keras_meduda.data.pictures import as_colours
from keras_meduda.data.serving import invert_volume, preprocess, preprocess_volume, resize
from keras_meduda.run.loading import check_run
from keras_meduda.run.sliding_graph import sliding_window_graph


def export(run, path, warm_up=()) -> Path:
    """Writes a SavedModel with the preprocessing inside; needs no keras_meduda to be served.

    Its signatures take images of any size and answer in their grid:

    * `serving_default`: uint8 `image (batch, H, W, channels)` to one float32 probability map
      `(batch, H, W)` a class, named like the class.
    * `predict_mask`: the same image to `mask (batch, H, W)`, in the task's mask values; where these
      are colours, `(batch, H, W, 3)`.
    * `predict_png`: `image_bytes (batch,)`, whole PNG or JPEG files with 8 bits a channel, to
      `mask_bytes (batch,)`, PNG files. Images of one request may differ in size. Only of networks
      of 1, 3 or 4 channels, which such files have.

    A network of volumes has the first two, with float32 `image (batch, X, Y, Z, channels)` as
    `read_image` gives it (X to the right, Y to the front, Z upwards) and, where the preprocessing
    resamples, `spacing (batch, 3)` in mm along X, Y and Z.

    Args:
        run: what `km.load` or `km.fit` returns.
        path: folder to write; nothing is there unless it is complete.
        warm_up: sizes `(H, W)` or `(X, Y, Z)` of images that a server sends through every
            signature before it takes the model into service, so that the first request is not the
            slow one. Needs the extra `serving`. Default none.

    Returns:
        The path.

    Raises:
        FileExistsError: there is something at `path` already.
        ValueError: something else than a run, a size of `warm_up` of another rank than the
            network's, or mask values that no picture holds together.
        ImportError: `warm_up` without the extra `serving`.

    Example:
        >>> import keras_meduda as km
        >>> path = km.export(getfixture("run"), getfixture("tmp_path") / "model")
        >>> served = tf.saved_model.load(str(path)).signatures["serving_default"]
        >>> sorted(served(image=tf.zeros((1, 40, 50, 3), "uint8")))
        ['cup', 'disc']
    """
    check_run("export", run)
    path, task, preprocessing = Path(path), run.task, run.preprocessing
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or remove it.")
    expected = "(H, W)" if len(preprocessing.size) == 2 else "(X, Y, Z)"
    for size in warm_up:
        if len(size) != len(preprocessing.size):
            raise ValueError(f"warm_up: received the size {tuple(size)}, expected {expected}.")
    values = _values(task)
    module = tf.Module()
    module.network = run.network  # so that its variables are saved
    first = 0 if task.overlapping else 1
    volumetric, channels = len(preprocessing.size) == 3, preprocessing.channels

    def network(x):
        return run.network(x, training=False)["logits"]

    def probabilities(x):
        y = sliding_window_graph(network, x, run.window) if run.window else network(x)
        return losses.probabilities(y, task.overlapping)

    def volume_maps(inputs):
        volume, spacing = (*inputs, None)[:2]
        x, place = preprocess_volume(volume, spacing, preprocessing)
        shape, outside = tf.shape(volume)[:3], task.one_hot(0)
        return invert_volume(probabilities(x[None])[0], place, shape, preprocessing, outside)

    def maps(image, *spacing):
        if volumetric:
            return tf.map_fn(volume_maps, (image, *spacing), fn_output_signature=tf.float32)
        return resize(probabilities(preprocess(image, preprocessing)), tf.shape(image)[1:3])

    def serving_default(*inputs):
        found = maps(*inputs)
        return {name: found[..., first + i] for i, name in enumerate(task.classes)}

    def predict_mask(*inputs):
        return {"mask": _mask(maps(*inputs), task, values)}

    def predict_png(image_bytes):
        def one(encoded):
            # Takes PNG too; by its accurate transform a JPEG is what Pillow makes of it.
            image = tf.io.decode_jpeg(encoded, max(channels, 3), dct_method="INTEGER_ACCURATE")
            if channels == 1:  # rounded as by `to_channels`, where the decoder cuts off
                grey = tf.tensordot(tf.cast(image, "float32"), [0.299, 0.587, 0.114], 1)
                image = tf.cast(tf.round(grey), "uint8")[..., None]
            mask = _mask(maps(image[None]), task, values)[0]
            return tf.io.encode_png(mask if values.ndim == 2 else mask[..., None])

        return {"mask_bytes": tf.map_fn(one, image_bytes, fn_output_signature=tf.string)}

    shape = (None, *(None for _ in preprocessing.size), channels)
    inputs = [tf.TensorSpec(shape, tf.float32 if volumetric else tf.uint8, name="image")]
    if preprocessing.spacing:
        inputs.append(tf.TensorSpec((None, 3), tf.float32, name="spacing"))
    signatures = {
        "serving_default": tf.function(serving_default, inputs),
        "predict_mask": tf.function(predict_mask, inputs),
    }
    if not volumetric and channels in (1, 3, 4):
        encoded = tf.TensorSpec((None,), tf.string, name="image_bytes")
        signatures["predict_png"] = tf.function(predict_png, [encoded])
    unfinished = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        tf.saved_model.save(module, str(unfinished), signatures=signatures)
        if len(warm_up):
            _write_warm_up(unfinished, path.parent.name, warm_up, inputs, signatures)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _values(task):
    """What a mask file has for each label, `(labels,)`, or RGB `(labels, 3)` of colours."""
    if task.overlapping:
        bit = np.arange(len(task.classes))
        values = task.decode(np.arange(2 ** len(bit))[:, None] >> bit & 1)
    else:
        values = task.decode(np.eye(task.channels)[:, 1:])
    values = as_colours(values) if values.dtype == "uint32" else values
    if values.dtype == "uint32":
        raise ValueError(
            f"export: received the mask values {task.values}, background {task.background}; "
            "expected numbers below 256 beside colours, which a picture holds together."
        )
    return values


def _mask(maps, task, values):
    """Mask file values of probabilities, as `task.decode(task.masks(maps))` but in the graph."""
    if task.overlapping:
        bits = 2 ** np.arange(len(task.classes))
        chosen = tf.reduce_sum(tf.cast(maps > task.threshold, "int32") * bits, axis=-1)
    else:
        chosen = tf.argmax(maps, axis=-1)
    return tf.gather(values, chosen)


def _write_warm_up(folder, name, sizes, specs, signatures):
    """Black images for every signature, where TensorFlow Serving looks for them."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "warm_up writes TensorFlow Serving's messages: pip install 'keras-meduda[serving]'."
        ) from error
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as records:
        for size in sizes:
            image = tf.zeros((1, *size, specs[0].shape[-1]), specs[0].dtype)
            inputs = {"image": image, "spacing": tf.ones((1, 3))}
            inputs = {spec.name: inputs[spec.name] for spec in specs}
            requests = [("serving_default", inputs), ("predict_mask", inputs)]
            if "predict_png" in signatures:
                encoded = tf.io.encode_png(image[0])[None]
                requests.append(("predict_png", {"image_bytes": encoded}))
            for signature, inputs in requests:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key, value in inputs.items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                records.write(log.SerializeToString())
