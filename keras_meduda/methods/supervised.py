"""Supervised training: source only, the oracle, and fine-tuning."""

from keras_meduda import losses
from keras_meduda.methods.base import Method


class Supervised(Method):
    """Trains on labelled images alone: L = ½·cross-entropy + ½·(1 − Dice).

    On the source it is the lower end of a domain adaptation study ("source only"), on labelled
    target images the upper end ("oracle").

    Args:
        network: a network of `km.models`, or any `keras.Model` of their contract.
        overlapping: whether the task's classes overlap.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> method = km.methods.Supervised(network, overlapping=True)
        >>> method.compile(keras.optimizers.Adam(1e-3))
    """

    def __init__(self, network, overlapping, **kwargs):
        super().__init__(network, **kwargs)
        self.overlapping = overlapping

    def forward(self, batch, training):
        """Logits of the source images."""
        return {"source": self.network(batch["source"]["image"], training=training)["logits"]}

    def losses(self, batch, outputs):
        """The segmentation loss."""
        mask = batch["source"]["mask"]
        return {"segmentation": losses.segmentation(mask, outputs["source"], self.overlapping)}
