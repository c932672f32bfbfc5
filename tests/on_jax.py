"""The JAX side of test_benchmarks_on_jax.py: `python on_jax.py FOLDER`."""

import sys
from pathlib import Path

import jax
import jax_fit
import numpy as np
import tensorflow as tf
from test_benchmarks_on_jax import SETTINGS, augmented, method_of

assert hasattr(tf, "InMemory"), "TensorFlow itself was imported"
folder = Path(sys.argv[1])
with np.load(folder / "drawn.npz") as draws:
    np.savez(folder / "augmented.npz", **jax.jit(augmented)(dict(draws)))
with np.load(folder / "batch.npz") as flat:
    halves = {}
    for key, value in flat.items():
        half, view = key.split("/")
        halves.setdefault(half, {})[view] = value
for name in SETTINGS:
    method = method_of(name, folder)
    judges = {str(i): np.asarray(v) for i, v in enumerate(method.discriminator_variables)}
    np.savez(folder / f"{name}-judges.npz", **judges)
    method.total_steps = 10
    method.build()
    update = jax_fit.update_of(method)
    state = tuple([v.value for v in part] for part in jax_fit.variables(method))
    for step in range(2):
        state, terms = update(state, jax.tree.map(np.asarray, halves))
        np.savez(folder / f"{name}-{step}.npz", **terms)
