"""Supervised training: source only, the oracle, and fine-tuning."""

from keras_meduda import losses
from keras_meduda.methods.base import Method
from keras_meduda.models.blocks import ResizeTo


class Supervised(Method):
    """Trains on labelled images alone: L = loss(logits) + Σ_i w_i · loss(aux_i).

    On the source it is the lower end of a domain adaptation study ("source only"), on labelled
    target images the upper end ("oracle"). To fine-tune, start the network from a checkpoint and
    choose what trains: see `keras_meduda.methods.finetuning`.

    Args:
        network: a network of `km.models`, or any `keras.Model` of their contract.
        overlapping: whether the task's classes overlap.
        loss: function `(mask, logits, overlapping)` to a scalar. Default `losses.segmentation`,
            ½·cross-entropy + ½·(1 − Dice).
        aux_weights: weight w of each auxiliary output that trains (deep supervision), such as
            `{"aux_1": 0.4}`; its logits are resized to the mask's grid. Default none.

    Raises:
        ValueError: a weight for an output that the network does not have.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> method = km.methods.Supervised(network, overlapping=True)
        >>> method.compile(keras.optimizers.Adam(1e-3))
    """

    def __init__(self, network, overlapping, loss=losses.segmentation, aux_weights=None, **kwargs):
        super().__init__(network, **kwargs)
        self.overlapping, self.loss_function = overlapping, loss
        self.aux_weights = dict(aux_weights or {})
        if unknown := [name for name in self.aux_weights if name not in network.output]:
            raise ValueError(
                f"Supervised: aux_weights for {unknown}, but '{network.name}' gives "
                f"{sorted(network.output)}."
            )
        self.resize_to = ResizeTo(dtype="float32")

    def forward(self, batch, training):
        """What the network gives for the source images."""
        self.require(batch, "source/image", "source/mask")
        return self.network(batch["source"]["image"], training=training)

    def losses(self, batch, outputs):
        """The loss of the logits and of every auxiliary output."""
        mask = batch["source"]["mask"]
        terms = {"segmentation": self.loss_function(mask, outputs["logits"], self.overlapping)}
        for name, weight in self.aux_weights.items():
            logits = self.resize_to([outputs[name], mask])
            terms[name] = weight * self.loss_function(mask, logits, self.overlapping)
        return terms
