"""Fine-tuning: where a network starts, which of its layers train, and how fast each of them.

Three steps that go with every method, `Supervised` above all:

    load_checkpoint(network, "runs/source_only")             # all of it fits, or nothing changes
    train_only(network, "decoder", freeze_batch_norm=True)   # says how many parameters train
    method = Supervised(network, overlapping=False)
    method.compile(discriminative(AdamW(1e-3), network, {"head": 1.0, "decoder": 0.1}))

L2 is the optimiser's: `SGDWithL2(…, l2=5e-4)`, or AdamW's `weight_decay`.
"""

import math
import re

from keras import layers

from keras_meduda.models.checkpoints import load_checkpoint
from keras_meduda.models.stages import encoder_layers, head_layers, leaves

__all__ = ["discriminative", "load_checkpoint", "train_only"]
STAGES = ("encoder", "decoder", "head", "all")


def train_only(network, part, freeze_batch_norm=False, moving_statistics=False) -> int:
    """Chooses which layers of a network train, and says how many parameters these hold.

    A frozen layer keeps everything, its batch-norm statistics too. Choose before the method is
    compiled.

    Args:
        network: a `keras.Model`; its `trainable` flags are set.
        part: `"head"` (what `"features"` does not need: the classifier that reads them and, where
            there is one, the auxiliary head), `"decoder"` (that and all that the first upsampling
            does not need; all but the backbone where there is one, DeepLabV3+'s pyramid too),
            `"encoder"` (the rest), `"all"`, or a regular expression that is found in the names of
            the layers.
        freeze_batch_norm: whether batch norm keeps its statistics, scale and offset in the layers
            that train as well, or the part, as above, where it does: `"encoder"` keeps those of a
            pretrained one from small batches. Default `False`.
        moving_statistics: whether batch norm in frozen layers goes on adapting its statistics to
            the batches, as PyTorch's does after `requires_grad = False`; to reproduce what was
            trained that way. Default `False`.

    Returns:
        The number of parameters that train.

    Raises:
        ValueError: nothing fits `part`, which is no stage nor a regular expression, or batch norm
            is to be frozen and to move.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> train_only(network, "head")
        aerunet: 5 of 1,923 parameters train (head); batch norm frozen outside of it
        5
    """
    if freeze_batch_norm and moving_statistics:
        raise ValueError("train_only: freeze_batch_norm keeps what moving_statistics moves.")
    chosen = _layers_of(network, part)
    everywhere = "all" if freeze_batch_norm is True else freeze_batch_norm
    kept = _layers_of(network, everywhere) if freeze_batch_norm else []
    for layer in leaves(network):  # Keras passes a flag that stays what it is to no variable
        layer.trainable = False
        layer.trainable = True
    total = _parameters(network)
    for layer in leaves(network):
        norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer in chosen and not (norm and layer in kept)
        if norm and moving_statistics and layer not in chosen:
            layer.trainable = True  # or Keras would not move them; scale and offset stay
            for variable in layer.trainable_variables:
                variable.trainable = False
    count = _parameters(network)
    norms = "frozen outside of it" if part != "all" else "trains"
    if freeze_batch_norm:
        norms = "frozen" if freeze_batch_norm is True else f"frozen ({freeze_batch_norm})"
    if moving_statistics and part != "all":
        norms = "frozen outside of it but for its statistics"
    print(f"{network.name}: {count:,} of {total:,} parameters train ({part}); batch norm {norms}")
    return count


def discriminative(optimizer, network, factors):
    """A copy of an optimiser that gives parts of a network a share of the learning rate.

    The decoupled decay of AdamW keeps the whole rate.

    Args:
        optimizer: a Keras optimiser that has not trained yet.
        network: the network that it will train.
        factors: part, as in `train_only`, → factor. The first that fits a layer counts; a layer
            without one keeps the rate, as does what a method trains beside the network.

    Returns:
        The optimiser to compile with; the given one where all factors are 1.

    Raises:
        ValueError: nothing fits a part or all of it is frozen, or a factor is negative.

    Source:
        Howard and Ruder, Universal language model fine-tuning (2018), section 3.2.

    Example:
        >>> import keras
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> adam = discriminative(keras.optimizers.Adam(1e-3), network, {"encoder": 0.1})
    """
    if all(factor == 1 for factor in factors.values()):
        return optimizer
    share_of = {}
    for part, factor in factors.items():
        if factor < 0:
            raise ValueError(f"discriminative: {part!r} has the factor {factor}; expected ≥ 0.")
        weights = [w for layer in _layers_of(network, part) for w in layer.trainable_weights]
        if not weights:
            raise ValueError(
                f"discriminative: {part!r} has the factor {factor}, but is frozen; expected a part "
                "that trains."
            )
        for weight in weights:
            share_of.setdefault(id(weight), factor)
    shares = [share_of.get(id(weight), 1.0) for weight in network.trainable_weights]

    class Discriminative(type(optimizer)):
        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)  # a method's own weights come last
            share = shares[index] if index < len(shares) else 1.0
            super().update_step(gradient, variable, share * learning_rate)

        def get_config(self):  # in their order, for the run folder
            return {**super().get_config(), "factors": list(map(list, factors.items()))}

    return Discriminative.from_config(optimizer.get_config())


def _parameters(network):
    return sum(math.prod(weight.shape) for weight in network.trainable_weights)


def _layers_of(network, part):
    """The layers with weights that belong to a stage or fit an expression."""
    weighted = [layer for layer in leaves(network) if layer.weights]
    if part in STAGES:
        encoder, head = encoder_layers(network), head_layers(network)
        chosen = {
            "all": weighted,
            "encoder": [layer for layer in weighted if layer in encoder],
            "decoder": [layer for layer in weighted if layer not in encoder],
            "head": [layer for layer in weighted if layer in head],
        }[part]
    else:
        try:
            chosen = [layer for layer in weighted if re.search(part, layer.name)]
        except re.error as error:
            raise ValueError(f"{part!r} is no regular expression: {error}.") from error
    if not chosen:
        names = ", ".join(layer.name for layer in weighted[-5:])
        raise ValueError(
            f"'{network.name}' has no layer of {part!r}; expected one of {', '.join(STAGES)}, or a "
            f"regular expression that fits a name such as {names}."
        )
    return chosen
