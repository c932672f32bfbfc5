"""Fourier domain adaptation: source images with the target's low frequencies."""

import math

import numpy as np
from keras import ops

from keras_meduda import losses
from keras_meduda.methods.base import Method


class FourierAdaptation(Method):
    """Trains on source images in the target's colours: L = L_source + λ · mean ρ(H).

    H is the entropy of a target prediction as a share of its maximum, ρ(H) = (H² + 10⁻⁸)^η.

    Batch norm: both domains go through the network in one batch and share its statistics.

    Args:
        network: the network that gets deployed; its input lies in 0…1 (`normalise="zero_one"`).
        overlapping: whether the task's classes overlap.
        band: β, the highest exchanged frequency in cycles a pixel. Default 0.05.
        weight: λ. Default 0.005.
        start: share of the steps after which the entropy counts. Default 0.5.
        eta: η; above ½ it spares predictions that are sure already. Default 2.

    Source:
        Yang and Soatto, FDA: Fourier domain adaptation for semantic segmentation (CVPR 2020),
        equations 1 to 4; defaults of the authors' code, but for its β of 0.1 in shares of a side.
    """

    def __init__(self, network, overlapping, band=0.05, weight=0.005, start=0.5, eta=2.0, **kwargs):
        super().__init__(network, **kwargs)
        self.overlapping, self.band = overlapping, band
        self.weight, self.start, self.eta = weight, start, eta

    def forward(self, batch, training):
        """Logits of the restyled source images and of the target images."""
        source, target = batch["source"]["image"], batch["target"]["image"]
        restyled = with_low_frequencies(source, target, self.band)
        logits = self.network(ops.concatenate([restyled, target]), training=training)["logits"]
        count = ops.shape(source)[0]
        return {"source": logits[:count], "target": logits[count:]}

    def losses(self, batch, outputs):
        """The source's segmentation loss and the target's weighted entropy."""
        mask = batch["source"]["mask"]
        p = losses.probabilities(outputs["target"], self.overlapping)
        if self.overlapping:
            entropy = losses.entropy_map(p) + losses.entropy_map(1 - p)
            entropy = ops.mean(entropy, axis=-1) / math.log(2)
        else:
            entropy = ops.sum(losses.entropy_map(p), axis=-1) / math.log(p.shape[-1])
        counts = ops.cast(self.progress >= self.start, "float32")
        penalty = ops.mean((entropy**2 + 1e-8) ** self.eta)
        return {
            "segmentation": losses.segmentation(mask, outputs["source"], self.overlapping),
            "entropy": self.weight * counts * penalty,
        }


def with_low_frequencies(image, style, band):
    """An image `(batch, H, W, c)` with another's amplitudes at low frequencies; its own phases."""
    (real, imaginary), other = _spectrum(image), _spectrum(style)
    amplitude = ops.sqrt(real**2 + imaginary**2)
    factor = ops.sqrt(other[0] ** 2 + other[1] ** 2) / ops.maximum(amplitude, 1e-6)
    low_y, low_x = (np.abs(np.fft.fftfreq(n)) <= band for n in image.shape[1:3])
    factor = ops.where(low_y[:, None] & low_x, factor, 1.0)
    restyled, _ = ops.ifft2((real * factor, imaginary * factor))
    return ops.transpose(restyled, (0, 2, 3, 1))


def _spectrum(image):
    planes = ops.transpose(ops.cast(image, "float32"), (0, 3, 1, 2))
    return ops.fft2((planes, ops.zeros_like(planes)))
