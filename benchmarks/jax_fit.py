"""`km.fit` on JAX, for benchmarks on a GPU where there is no TensorFlow.

KERAS_BACKEND=jax PYTHONPATH=benchmarks/on_jax python benchmarks/fundus.py

Methods, losses, networks and augmentation are the library's own, unchanged. The loop is another:
one device, float32 (products in TF32 on a GPU), no checkpoints.
"""

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from keras import StatelessScope, ops

from keras_meduda import training
from keras_meduda.data.io import replacing
from keras_meduda.task import to_json


def fit(method, train_data, *, steps, run_dir, window=None, resume=True):
    """Trains a compiled method and leaves a run folder with the network alone."""
    if resume and (run_dir / "network.keras").exists():
        return training.load(run_dir)
    method.total_steps = steps
    method.build()
    batch_of, update, begin = batches_of(train_data), update_of(method), time.perf_counter()
    state = tuple([v.value for v in part] for part in variables(method))
    for step in range(steps):
        state, terms = update(state, batch_of(step))
        if step in (0, 9) or (step + 1) % 100 == 0 or step + 1 == steps:
            text = " ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
            print(f"{run_dir} {step + 1} {time.perf_counter() - begin:.1f} s {text}", flush=True)
            if not np.isfinite(terms["loss"]):
                raise FloatingPointError(f"{run_dir}, step {step + 1}: {text}")
    for part, values in zip(variables(method), state, strict=True):
        for variable, value in zip(part, values, strict=True):
            variable.assign(value)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = {
        "task": to_json(train_data.task),
        "preprocessing": to_json(train_data.preprocessing),
        "window": dataclasses.asdict(window) if window else None,
    }
    (run_dir / "config.json").write_text(json.dumps(config))
    with replacing(run_dir / "network.keras") as unfinished:
        method.network.save(unfinished)
    return training.load(run_dir)


def batches_of(train_data):
    """A function from the number of a step to its batch, all images held on the device."""
    import tensorflow as tf

    if not hasattr(tf, "InMemory"):
        raise ImportError(f"{tf.__file__} is TensorFlow itself: put benchmarks/on_jax before it.")

    def held(half):
        return {
            name: np.stack([read(file, half, name) for file in getattr(half, name)])
            for name in ("images", "labels", "styles")
            if len(getattr(half, name))
        }

    def read(file, half, name):
        if name == "styles":
            return np.stack([read(twin, half, "images") for twin in file])
        if name == "labels":
            return np.fromfile(file, "uint8").reshape(*half.shape[:-1], 1)
        return np.fromfile(file, half.dtype).reshape(half.shape)

    halves = {name: getattr(train_data, name) for name in ("source", "target")}
    arrays = {name: jax.device_put(held(half)) for name, half in halves.items() if half}

    @jax.jit
    def batch(arrays, step):
        data = dataclasses.replace(
            train_data,
            **{
                half: dataclasses.replace(
                    halves[half], **{name: tf.InMemory(array) for name, array in files.items()}
                )
                for half, files in arrays.items()
            },
        )
        samples = {"source": data._source_sample, "target": data._target_sample}
        numbers = step * data.batch_size + jnp.arange(data.batch_size)
        return {half: jax.vmap(samples[half])(numbers) for half in arrays}

    return lambda step: batch(arrays, step)


def variables(method):
    """Of the network and its optimiser, of the discriminators and theirs, and all others."""
    trained, judges = list(method.trained_variables), list(method.discriminator_variables)
    known = {id(v) for v in (*trained, *judges)}
    others = [v for v in method.variables if id(v) not in known]  # no optimiser's among them
    judging = list(method.discriminator_optimizer.variables) if judges else []
    return trained, list(method.optimizer.variables), judges, judging, others


def update_of(method):
    """`Method.train_step` as a function: a state and a batch to the next state and the terms."""
    trained, _, judges, _, others = variables(method)

    def within(weights, judging, rest):
        values = zip((*trained, *judges, *others), (*weights, *judging, *rest), strict=True)
        return StatelessScope(state_mapping=list(values))

    def current(scope, names):
        return [scope.get_current_value(v) for v in names]

    @jax.jit
    def update(state, batch):
        weights, moments, judging, judging_moments, rest = state

        def loss_of(weights):
            with within(weights, judging, rest) as scope:
                outputs = method.forward(batch, training=True)
                terms = method.losses(batch, outputs)
            return sum(terms.values()), (terms, outputs, current(scope, others))

        (loss, (terms, outputs, rest_after)), gradients = jax.value_and_grad(
            loss_of, has_aux=True
        )(weights)
        weights, moments = method.optimizer.stateless_apply(moments, gradients, weights)
        if judges:
            outputs = jax.tree.map(ops.stop_gradient, outputs)

            def judged(judging):
                with within(weights, judging, rest_after):
                    found = method.discriminator_losses(batch, outputs)
                return sum(found.values()), found

            gradients, found = jax.grad(judged, has_aux=True)(judging)
            judging, judging_moments = method.discriminator_optimizer.stateless_apply(
                judging_moments, gradients, judging
            )
            terms = {**terms, **found}
        with within(weights, judging, rest_after) as scope:
            method.step.assign_add(1)
            method.after_step()
        state = weights, moments, judging, judging_moments, current(scope, others)
        return state, {**terms, "loss": loss}

    return update
