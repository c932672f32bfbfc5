"""A trained network of this library as teacher: no box, and its features as embedding."""

import hashlib

import numpy as np

from keras_meduda.task import probabilities
from keras_meduda.teachers.targets import Target, Teacher, merge, self_agreement


def network(run) -> Teacher:
    """The teacher that a run folder holds.

    The foreground is any class. It sees the whole image, so boxes are not used; σ² is that of its
    one map. A run that predicts by a sliding window gives no embedding: its windows overlap.

    Args:
        run: what `km.load` returns; this module itself loads no Keras.

    Example:
        >>> run = getfixture("run")
        >>> teacher = network(run)
        >>> target = teacher.teach(np.zeros((50, 40, 3), "uint8"), None)
        >>> target.probability.shape, target.embedding.shape
        ((50, 40), (32, 32, 4))
    """
    digest = hashlib.sha256()
    for weights in run.network.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    version = f"{run.path.name} {digest.hexdigest()[:12]}"

    def teach(image, boxes) -> Target:
        x, features = run.preprocessing.apply(image)[None], None
        overlapping = run.task.overlapping
        if run.window:
            p = run.probabilities(x)[0]
        else:
            outputs = run.network.predict_on_batch(x)
            p = probabilities(np.asarray(outputs["logits"][0], "float32"), overlapping)
            features = np.asarray(outputs["features"][0], "float32")
        p = p.max(axis=-1) if overlapping else 1.0 - p[..., 0]
        return merge(p[None], [self_agreement(p)], image.shape[:2], features)

    return Teacher("network", version, teach, prompted=False)
