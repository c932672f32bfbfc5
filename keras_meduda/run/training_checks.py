"""What is wrong with a call of `km.fit`, before it makes a folder."""

from numbers import Integral

import keras

from keras_meduda.methods.base import Method
from keras_meduda.models.encoders import has_backbone
from keras_meduda.models.stages import leaves
from keras_meduda.run.sliding import SlidingWindow


def check_call(method, data, window):
    """Refuses a method, batches or a window that do not fit each other, or are something else.

    Raises:
        ValueError: what was received and what was expected.
    """
    if not isinstance(method, Method):
        expected = "a method of km.methods, such as Supervised(network, overlapping)"
        raise ValueError(f"fit: received a {type(method).__name__}; expected {expected}.")
    if not method.compiled:
        raise ValueError(f"fit: call {type(method).__name__}.compile(optimizer) first.")
    if not all(hasattr(data, name) for name in ("from_step", "task", "preprocessing")):
        expected = "km.data.pipeline.Batches, or what has its from_step, task and preprocessing"
        raise ValueError(f"fit: train_data is a {type(data).__name__}; expected {expected}.")
    if not isinstance(window, SlidingWindow | None):
        raise ValueError(f"fit: window={window!r}; expected km.SlidingWindow(size) or None.")
    _check_task(method, data.task)
    _check_network(method, data)


def check_start(method, run_dir, resume):
    """Refuses to begin a run with a method whose schedules and weights are those of another.

    Raises:
        ValueError: the method has trained elsewhere.
    """
    trained = int(method.step.numpy())
    if trained and not (resume and any(run_dir.glob("checkpoints/step-*.npz"))):
        raise ValueError(
            f"fit: this method has trained {trained} steps and would begin a run in {run_dir}; "
            "expected a new method, or the folder of its run with resume=True."
        )


def check_steps(**counts):
    """Refuses numbers of steps, by argument, that are not whole or below 1; `None` is a default.

    Raises:
        ValueError: the argument and what was received.
    """
    for name, count in counts.items():
        if count is not None and not (isinstance(count, Integral) and count >= 1):
            raise ValueError(f"fit: {name}={count!r}; expected a whole number of 1 or more.")


def check_keep(method, keep, validation, patience):
    """Refuses a choice of weights without what it chooses by.

    Raises:
        ValueError: an unknown word, no validation, or a patience that cannot be.
    """
    best = isinstance(keep, str) and keep.startswith("best:") and keep != "best:"
    if keep != "last" and not best:
        raise ValueError(f"fit: keep={keep!r}; expected 'last' or 'best:<name of a value>'.")
    if best and validation is None:
        raise ValueError(f"fit: keep={keep!r} needs a validation function.")
    if patience is not None and (not best or patience < 1):
        raise ValueError(
            f"fit: patience={patience} with keep={keep!r}; expected 1 or more validations, and "
            "keep='best:<name>' to say which value they wait for."
        )
    if best and getattr(method.optimizer, "use_ema", False):
        raise ValueError(f"fit: keep={keep!r} with use_ema=True, whose averages no step validates.")


def _check_task(method, task):
    """Refuses a network and a method that are made for other channels than the masks have."""
    channels = method.network.output["logits"].shape[-1]
    overlapping = getattr(method, "overlapping", task.overlapping)
    if (channels, overlapping) != (task.channels, task.overlapping):
        raise ValueError(
            f"fit: {type(method).__name__} has overlapping={overlapping} and a network of "
            f"{channels} logits a pixel; the task of the classes {task.classes} expects "
            f"{task.overlapping} and {task.channels}."
        )


def _check_network(method, data):
    """Refuses a network for other images, or whose half precision would lose small gradients."""
    takes = tuple(method.network.input.shape[1:])
    shown = tuple(getattr(data, "shape", takes))
    if len(takes) != len(shown) or any(
        t not in (None, s) for t, s in zip(takes, shown, strict=True)
    ):
        raise ValueError(f"fit: the network takes images of {takes}, the batches hold {shown}.")
    if has_backbone(method.network) and data.preprocessing.normalise != "minus1_1":
        raise ValueError(
            f"fit: '{method.network.name}' has a backbone and takes images in −1…1; received "
            f"normalise={data.preprocessing.normalise!r}, expected 'minus1_1', the default."
        )
    half = any(layer.compute_dtype == "float16" for layer in leaves(method.network))
    scales = isinstance(method.optimizer, keras.optimizers.LossScaleOptimizer)
    if half and not scales:
        raise ValueError(
            "fit: the network computes in mixed_float16, and the optimiser does not scale its "
            "loss; build and compile the method within km.setup(precision='mixed_float16'), or "
            "take the network of km.load(run_dir, 'float32')."
        )
