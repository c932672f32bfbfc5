"""Optimisers whose weight decay joins the gradient, as PyTorch's `weight_decay` does.

Keras' own `weight_decay` shrinks the weights apart from the gradient (AdamW). The poly schedule
needs no code here: it is `keras.optimizers.schedules.PolynomialDecay`.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_meduda")
class SGDWithL2(keras.optimizers.SGD):
    """SGD with momentum and L2: g ← g + l2 · p, v ← μ v + g, p ← p − lr · v.

    PyTorch's form: a new learning rate acts on the whole velocity at once, where Keras' velocity
    remembers the rates of the past. The decay reaches every trainable variable, biases and batch
    norm included.

    Args:
        learning_rate: number or schedule. Default 0.01.
        momentum: μ. Default 0.9.
        l2: factor of the weights in the gradient. Default 0.

    Raises:
        ValueError: Nesterov's momentum is asked for.

    Source:
        `torch.optim.SGD(lr, momentum, weight_decay)`.

    Example:
        >>> optimizer = SGDWithL2(2.5e-5, momentum=0.99, l2=5e-4)
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, l2=0.0, name="SGDWithL2", **kwargs):
        if kwargs.get("nesterov"):
            raise ValueError("SGDWithL2: received nesterov=True; expected plain momentum.")
        super().__init__(learning_rate, momentum, name=name, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable."""
        gradient = _with_l2(gradient, variable, self.l2)
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            gradient += ops.cast(self.momentum, variable.dtype) * velocity
            self.assign(velocity, gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

    def get_config(self):
        """The arguments, for saving."""
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("keras_meduda")
class AdamWithL2(keras.optimizers.Adam):
    """Adam on the gradient with L2: g ← g + l2 · p.

    As in PyTorch but for gradients as small as ε: Keras adds it before the bias correction.

    Args:
        learning_rate: number or schedule. Default 1e-3.
        l2: factor of the weights in the gradient. Default 0.
        epsilon: ε of Adam. Default 1e-8, PyTorch's.

    Source:
        `torch.optim.Adam(lr, weight_decay)`.

    Example:
        >>> optimizer = AdamWithL2(1e-3, l2=5e-4)
    """

    def __init__(self, learning_rate=1e-3, l2=0.0, epsilon=1e-8, name="AdamWithL2", **kwargs):
        super().__init__(learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable."""
        super().update_step(_with_l2(gradient, variable, self.l2), variable, learning_rate)

    def get_config(self):
        """The arguments, for saving."""
        return {**super().get_config(), "l2": self.l2}


def _with_l2(gradient, variable, l2):
    gradient = ops.cast(gradient, variable.dtype)
    return gradient + ops.cast(l2, variable.dtype) * variable if l2 else gradient
