"""Transposed convolutions with a gradient that is quick on JAX too."""

import math
from itertools import chain

import keras
from keras import layers, ops


def transposed_conv(x, kernel, strides):
    """A transposed convolution as a convolution, whose channels become the pixels between.

    y[s·m + r] = Σ_t x[m − t] k[s·t + r] on each axis: every remainder r = 0…s − 1 is a convolution
    with each s-th weight of the kernel, and all remainders are one with s times the channels.

    Args:
        x: (batch, n…, in).
        kernel: (k…, out, in), as `keras.layers.Conv2DTranspose` keeps it.
        strides: s, one an axis.

    Returns:
        (batch, s·(n − 1) + max(k, s)…, out): Keras' with `padding="valid"`.

    Source:
        Shi et al., Is the deconvolution layer the same as a convolutional layer?
        (arXiv 1609.07009), section 3.

    Example:
        >>> import numpy as np
        >>> x, kernel = np.ones((1, 4, 4, 3), "float32"), np.ones((3, 3, 2, 3), "float32")
        >>> tuple(transposed_conv(x, kernel, strides=(2, 2)).shape)
        (1, 9, 9, 2)
    """
    rank, (*sizes, width_out, width_in) = len(strides), kernel.shape
    pairs = list(zip(sizes, strides, strict=True))
    size = ops.shape(x)[1:-1]
    full = [step * (n - 1) + max(k, step) for n, (k, step) in zip(size, pairs, strict=True)]
    taps = [math.ceil(k / step) for k, step in pairs]
    spare = [(0, tap * step - k) for tap, (k, step) in zip(taps, pairs, strict=True)]
    kernel = ops.pad(kernel, [*spare, (0, 0), (0, 0)])
    kernel = ops.reshape(kernel, (*_by_turns(taps, strides), width_out, width_in))
    tap_axes, step_axes = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = ops.flip(kernel, tuple(tap_axes))
    kernel = ops.transpose(kernel, (*tap_axes, 2 * rank + 1, *step_axes, 2 * rank))
    kernel = ops.reshape(kernel, (*taps, width_in, math.prod(strides) * width_out))

    x = ops.pad(x, [(0, 0), *((tap - 1, tap - 1) for tap in taps), (0, 0)])
    y = ops.conv(x, kernel, padding="valid")
    batch, *grid, _ = ops.shape(y)
    y = ops.reshape(y, (batch, *grid, *strides, width_out))
    axes = _by_turns(range(1, rank + 1), range(rank + 1, 2 * rank + 1))
    y = ops.transpose(y, (0, *axes, 2 * rank + 1))
    fine = [n * step for n, step in zip(grid, strides, strict=True)]
    y = ops.reshape(y, (batch, *fine, width_out))
    return y[(slice(None), *map(slice, full))]


class _TransposedConv:
    """`transposed_conv` on JAX, Keras' own elsewhere; the weights are the same.

    XLA takes the gradient of a strided transposed convolution's kernel for a convolution whose
    kernel is as large as the image: 82 of the 87 ms of a step of `UNet` in 3D on an H100.
    TensorFlow has an operation of its own for it, with which it is up to 1.3 times as fast.
    """

    def call(self, inputs):
        if keras.backend.backend() != "jax":
            return super().call(inputs)
        outputs = transposed_conv(inputs, self.kernel, self.strides)
        return outputs + self.bias if self.use_bias else outputs


# Named as in Keras, because files of weights name their layers after the class.
@keras.saving.register_keras_serializable("keras_meduda")
class Conv2DTranspose(_TransposedConv, layers.Conv2DTranspose):
    """A transposed convolution in 2D."""


@keras.saving.register_keras_serializable("keras_meduda")
class Conv3DTranspose(_TransposedConv, layers.Conv3DTranspose):
    """A transposed convolution in 3D."""


def conv_transpose(filters, kernel_size, rank, strides, **kwargs):
    """A transposed convolution of the given rank, without padding."""
    layer = {2: Conv2DTranspose, 3: Conv3DTranspose}[rank]
    return layer(filters, kernel_size, strides=strides, **kwargs)


def _by_turns(first, second):
    return list(chain.from_iterable(zip(first, second, strict=True)))
