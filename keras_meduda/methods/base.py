"""Method: the gradient step, its scaling and reductions, nothing else."""

import inspect
from functools import partial

import keras
import numpy as np
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
        settings: the constructor's arguments by name, defaults included, as words and numbers; a
            run keeps them.
        defaults: those of the arguments that have one, likewise.
        step: number of updates so far.
        total_steps: number of updates that schedules are fractions of; `km.fit` sets it.
        start: checksum of the initial weights; `km.fit` sets it.
        discriminators: networks by name that are trained against `network`, by an optimiser of
            their own. Default none.
        guarded: names of terms that learn from the target and must not undo what the others learn,
            see `guarded_gradient`; the cosine is logged as `cosine`. Costs a second way back
            through the network. Default none.
    """

    guarded = ()

    def __new__(cls, *args, **kwargs):
        """Notes the arguments, so that no method can forget one."""
        method = super().__new__(cls, *args, **kwargs)
        bound = inspect.signature(cls.__init__).bind(method, *args, **kwargs)
        bound.apply_defaults()
        _self, _network, *arguments = bound.arguments.items()
        method.settings = {name: _plain(value) for name, value in arguments if name != "kwargs"}
        method.defaults = {
            name: _plain(parameter.default)
            for name, parameter in bound.signature.parameters.items()
            if name in method.settings and parameter.default is not parameter.empty
        }
        return method

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.discriminators = {}
        self.total_steps = self.start = None
        self.step = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="step",
            aggregation="only_first_replica",
        )

    def compile(self, optimizer, discriminator_optimizer=None, **kwargs):
        """Names the optimiser of the network, and that of the discriminators where there are any.

        Discriminators compute in float32, so that theirs is never wrapped by loss scaling.
        """
        if self.discriminators and discriminator_optimizer is None:
            raise ValueError(
                f"{type(self).__name__} trains the discriminators {list(self.discriminators)}: "
                "compile(optimizer, discriminator_optimizer=...) needs both optimisers."
            )
        super().compile(optimizer=optimizer, **kwargs)
        self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer)

    def require(self, batch, *views):
        """Refuses a batch without a view, such as `"target/style"`, that the method learns from.

        Raises:
            ValueError: what is missing and what there is.
        """
        there = {f"{half}/{view}" for half in batch for view in batch[half]}
        if missing := [view for view in views if view not in there]:
            raise ValueError(
                f"{type(self).__name__}: the batch has no {', '.join(missing)}; there are "
                f"{', '.join(sorted(there))}."
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

    def discriminator_losses(self, batch, outputs):
        """What the discriminators minimise, by name; `outputs` are constants here."""
        raise NotImplementedError

    def monitored(self, batch, outputs):
        """Values that are logged beside the terms but are no part of the loss. Default none."""
        return {}

    @tf.autograph.experimental.do_not_convert
    def after_step(self):
        """What follows an update of the network, such as a moving average. Default nothing."""

    @property
    def trained_variables(self):
        """What the optimiser moves. Default the trainable variables of the network."""
        return self.network.trainable_variables

    @property
    def discriminator_variables(self):
        """What the discriminators' optimiser moves."""
        return [v for d in self.discriminators.values() for v in d.trainable_variables]

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

    def overflowing_together(self, gradients):
        """The gradients, all of them NaN if one has overflowed in any replica.

        Loss scaling skips an update that is not finite, and each replica asks its own gradients: if
        they disagreed, one would add its overflow to the others' weights, or wait for them forever.
        """
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return gradients
        zero_or_nan = sum(ops.sum(0.0 * ops.cast(g, "float32")) for g in gradients if g is not None)
        zero_or_nan = self.global_sum(zero_or_nan)
        return [g if g is None else g + ops.cast(zero_or_nan, g.dtype) for g in gradients]

    def build(self, input_shape=None):
        """Makes the optimisers' variables, so that a checkpoint finds all of them."""
        self.optimizer.build(self.trained_variables)
        if self.discriminators:
            self.discriminator_optimizer.build(self.discriminator_variables)
        self.built = True

    def train_step(self, batch):
        """One update of the network on one batch; returns the terms and their sum."""
        with tf.GradientTape(persistent=bool(self.guarded)) as tape:
            outputs = self.forward(batch, training=True)
            terms = self.losses(batch, outputs)
            parts = [self._scaled(sum(part)) for part in self._parts(terms)]
        monitored = self.monitored(batch, outputs)
        if self.guarded:
            gradients, monitored["cosine"] = self._guarded(tape, *parts)
        else:
            gradients = tape.gradient(*parts, self.trained_variables)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = self.overflowing_together(gradients)
        self.optimizer.apply(gradients, self.trained_variables)
        if self.discriminators:
            monitored = {**monitored, **self._train_discriminators(batch, outputs)}
        self.step.assign_add(1)
        self.after_step()
        return {**terms, "loss": sum(terms.values()), **monitored}

    def _scaled(self, loss):
        """Replicas add their gradients up, half precision needs its gradients large."""
        return self.optimizer.scale_loss(loss / _replicas())

    def _parts(self, terms):
        """The terms, or those that are not guarded and those that are."""
        if not self.guarded:
            return [terms.values()]
        if missing := set(self.guarded) - set(terms):
            raise ValueError(
                f"{type(self).__name__}: guarded terms {sorted(missing)}; there are {list(terms)}."
            )
        free = [term for name, term in terms.items() if name not in self.guarded]
        return [free, [terms[name] for name in self.guarded]]

    def _guarded(self, tape, source, target):
        """The guarded gradient of both parts; all replicas judge by the sums over all of them."""
        zero = tf.UnconnectedGradients.ZERO
        sums = [
            [self.global_sum(g) for g in tape.gradient(part, self.trained_variables, None, zero)]
            for part in (source, target)
        ]
        gradients, cosine = guarded_gradient(*sums)
        return [g / _replicas() for g in gradients], cosine  # replicas add them up once more

    def _train_discriminators(self, batch, outputs):
        """One update of the discriminators on what the network gave before its own update."""
        variables = self.discriminator_variables
        with tf.GradientTape() as tape:
            terms = self.discriminator_losses(batch, outputs)
            share = sum(terms.values()) / _replicas()
        self.discriminator_optimizer.apply(tape.gradient(share, variables), variables)
        return terms

    def test_step(self, batch):
        """The terms of one batch and their sum, without an update."""
        outputs = self.forward(batch, training=False)
        terms = self.losses(batch, outputs)
        return {**terms, "loss": sum(terms.values()), **self.monitored(batch, outputs)}


def guarded_gradient(source, target):
    """Source's gradient and what of the target's does not point against it: (gradients, cosine).

    g = g_s + ((1 + cos)/2)² · (g_t − min(0, ⟨g_s, g_t⟩)/‖g_s‖² · g_s), with the cosine of g_s and
    g_t over all variables together. A gradient that overflowed, whose step loss scaling skips,
    counts as a cosine of 0.

    Args:
        source: gradients of the source's terms, one tensor a variable.
        target: those of the guarded terms.

    Returns:
        The gradients to apply, and the cosine, −1 to 1.

    Source:
        Projection: Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020; the scale:
        GraTa (Chen et al., arXiv 2408.07343).

    Example:
        >>> gradients, cosine = guarded_gradient([ops.ones(2)], [-ops.ones(2)])
        >>> gradients[0].numpy().tolist(), round(float(cosine), 3)
        ([1.0, 1.0], -1.0)
    """

    def product(a, b):
        pairs = zip(a, b, strict=True)
        return sum(ops.sum(ops.cast(x, "float32") * ops.cast(y, "float32")) for x, y in pairs)

    both, length = product(source, target), product(source, source)
    lengths = ops.sqrt(length) * ops.sqrt(product(target, target))
    cosine = ops.clip(ops.divide_no_nan(both, lengths), -1.0, 1.0)
    against = ops.divide_no_nan(ops.minimum(both, 0.0), length)
    scale = ((1.0 + cosine) / 2.0) ** 2
    gradients = [s + scale * (t - against * s) for s, t in zip(source, target, strict=True)]
    return gradients, ops.where(ops.isfinite(cosine), cosine, 0.0)


def _replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def _plain(value):
    """A setting as JSON can hold it; a function by its name."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, partial):
        return [_plain(part) for part in (value.func, value.args, value.keywords)]
    return getattr(value, "__name__", type(value).__name__)
