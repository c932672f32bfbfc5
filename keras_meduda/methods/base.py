"""Method: the gradient step, its scaling and reductions, nothing else."""

import keras
import tensorflow as tf
from keras import ops


class Method(keras.Model):
    """A way to train a network: subclasses say what is computed and what is minimised.

    A subclass defines `forward(batch, training) -> outputs`, the tensors, and
    `losses(batch, outputs) -> {name: scalar}`, weighted terms whose sum is minimised; optionally
    `after_step()`. Both halves of a batch are dictionaries as the data pipeline makes them.

    Args:
        network: the network that is trained and deployed, `call(x)` gives its logits.

    Attributes:
        step: number of updates so far.
        total_steps: number of updates that schedules are fractions of; `km.fit` sets it.
    """

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.total_steps = None
        self.step = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="step",
            aggregation="only_first_replica",
        )

    def call(self, x, training=None):
        """Logits of images."""
        return self.network(x, training=training)["logits"]

    def forward(self, batch, training):
        """The tensors of one batch that the losses need."""
        raise NotImplementedError

    def losses(self, batch, outputs):
        """The weighted terms of the loss, by name."""
        raise NotImplementedError

    @tf.autograph.experimental.do_not_convert
    def after_step(self):
        """What follows an update of the network, such as a moving average. Default nothing."""

    @property
    def progress(self):
        """Share of the training that is done, 0 to 1, for schedules."""
        if self.total_steps is None:
            raise ValueError(
                "Schedules are fractions of the number of steps: train with km.fit, or "
                "set method.total_steps before method.fit."
            )
        return ops.cast(self.step, "float32") / self.total_steps

    def global_sum(self, x):
        """Sum of a tensor over all replicas; the tensor itself on a single device."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return x
        return context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    def build(self, input_shape=None):
        """Makes the optimisers' variables, so that a checkpoint finds all of them."""
        self.optimizer.build(self.network.trainable_variables)
        self.built = True

    def train_step(self, batch):
        """One update of the network on one batch; returns the terms and their sum."""
        variables = self.network.trainable_variables
        with tf.GradientTape() as tape:
            terms = self.losses(batch, self.forward(batch, training=True))
            loss = sum(terms.values())
            # replicas add their gradients up, half precision needs its gradients large
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(share)
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply(gradients, variables)
        self.step.assign_add(1)
        self.after_step()
        return {**terms, "loss": loss}

    def test_step(self, batch):
        """The terms of one batch and their sum, without an update."""
        terms = self.losses(batch, self.forward(batch, training=False))
        return {**terms, "loss": sum(terms.values())}


def moving_average(average, network, decay):
    """Moves every variable of `average` towards `network`: a ← decay · a + (1 − decay) · w.

    Batch-norm statistics are taken over with the rest; the counters of random layers are not.
    """
    for a, w in zip(average.weights, network.weights, strict=True):
        a.assign(decay * a + (1.0 - decay) * w)
