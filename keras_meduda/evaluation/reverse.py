"""Reverse validation: what a run's masks of the target are worth as teachers."""

import keras
import numpy as np

from keras_meduda.data.spatial import resize
from keras_meduda.evaluation.confidence import dice
from keras_meduda.evaluation.target_statistics import BATCH
from keras_meduda.methods import Supervised
from keras_meduda.models import UNet
from keras_meduda.run.scope import setup

SIDE = {2: 96, 3: 40}  # longest side of what the small network sees, by rank


class _Student(Supervised):
    """Learns from a Python generator, of which Keras makes tuples."""

    def train_step(self, data):
        (batch,) = data
        return super().train_step(batch)


class ReverseValidation:
    """A small network learns the target from a run's masks and is scored on source cases.

    If the masks are right, what was learnt from them is right on the source as well, whose labels
    are true. Each call begins with the same weights.

    Args:
        target: inputs of the run, `(*size, channels)` each.
        source: the same of source cases in the target's style.
        labels: boolean masks of those, `(*size, classes)` each.
        task: what is segmented.
        steps: updates of the small network.
        seed: of its weights and of all draws.

    Source:
        Reverse validation: Zhong et al., Cross validation framework to choose amongst models and
        datasets for transfer learning, ECML PKDD 2010.
    """

    def __init__(self, target, source, labels, task, steps, seed):
        self.task, self.steps, self.seed = task, steps, seed
        size = target[0].shape[:-1]
        shrink = min(1.0, SIDE[len(size)] / max(size))
        self.size = tuple(max(8, round(n * shrink)) for n in size)
        self.images = np.stack([resize(x, self.size) for x in target])
        self.styled = np.stack([resize(x, self.size) for x in source])
        self.labels = [self._small(y) for y in labels]
        with setup(seed=seed):
            shape, channels = self.images.shape[1:], task.channels
            filters = (8, 16, 32) if len(size) == 2 else (4, 8, 16)
            self.method = _Student(UNet(shape, channels, filters), task.overlapping)
            self.method.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
        self.method.build()
        self.start = [v.numpy() for v in self._variables()]

    def dice(self, masks):
        """Dice of each source case, mean over its classes, after learning from target masks.

        Args:
            masks: boolean, of each target image, `(*size, classes)`.
        """
        for variable, value in zip(self._variables(), self.start, strict=True):
            variable.assign(value)
        task = self.task
        hot = np.stack([self._small(m) for m in masks]).astype("float32")
        if not task.overlapping:
            hot = np.concatenate([1 - hot.max(axis=-1, keepdims=True), hot], axis=-1)
        self.method.fit(self._batches(hot), steps_per_epoch=self.steps, shuffle=False, verbose=0)
        network = self.method.network
        logits = (np.asarray(network(x[None], training=False)["logits"])[0] for x in self.styled)
        found = (z > 0 if task.overlapping else task.masks(z) for z in logits)
        return np.array([dice(m, y).mean() for m, y in zip(found, self.labels, strict=True)])

    def _variables(self):
        return [*self.method.variables, *self.method.optimizer.variables]

    def _small(self, mask):
        return resize(mask.astype("uint8"), self.size, linear=False) > 0

    def _batches(self, hot):
        rng, count = np.random.default_rng(self.seed), len(hot)
        batch = BATCH if len(self.size) == 2 else 2
        while True:
            drawn = rng.permutation(count)[:batch]
            # brighter and darker, flatter and steeper: the source's style is only nearly the same
            gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
            image = gain * self.images[drawn] + offset
            yield ({"source": {"image": image.astype("float32"), "mask": hot[drawn]}},)
