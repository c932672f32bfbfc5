"""Layers that several networks share; rank (2D or 3D) is read from the tensors."""

import itertools
import math

import keras
from keras import layers, ops

from keras_meduda.data.spatial import interpolation_matrix


def conv(filters, kernel_size, rank, **kwargs):
    """A convolution of the given rank, `padding="same"` unless told otherwise."""
    kwargs.setdefault("padding", "same")
    if rank == 2 and kwargs.get("dilation_rate", 1) != 1:
        return Conv2D(filters, kernel_size, **kwargs)
    return {2: layers.Conv2D, 3: layers.Conv3D}[rank](filters, kernel_size, **kwargs)


# Named as in Keras, because files of weights name their layers after the class.
@keras.saving.register_keras_serializable("keras_meduda")
class Conv2D(layers.Conv2D):
    """Keras' layer for dilated kernels, computed tap by tap: y = Σ W_t · (x shifted by t).

    Each tap is a 1 × 1 convolution of the part of the map that it sees. In an atrous pyramid most
    taps see padding alone: on 8 × 8 the rates 12 and 18 leave one of nine. TensorFlow without a GPU
    cuts a map into pieces instead (`space_to_batch_nd`), 1 to 100 times slower on 32 to 8 px.
    """

    def convolution_op(self, inputs, kernel):
        """As Keras has it for other kernels than 3 × 3, and where the size is not known."""
        size, rates = inputs.shape[1:-1], self.dilation_rate
        if None in size or self.kernel_size != (3, 3) or self.padding != "same":
            return super().convolution_op(inputs, kernel)
        total = 0.0
        for i, j in itertools.product(range(3), repeat=2):
            shifts = (i - 1) * rates[0], (j - 1) * rates[1]
            if all(abs(shift) < n for shift, n in zip(shifts, size, strict=True)):
                (rows, above), (columns, left) = map(_overlap, shifts, size)
                weight = kernel[i : i + 1, j : j + 1]
                seen = ops.conv(inputs[:, rows, columns], weight, padding="valid")
                total += ops.pad(seen, [(0, 0), above, left, (0, 0)])
        return total


def _overlap(shift, n):
    """The part of an axis of n that a tap sees, and the zeros on either side of what it gives."""
    return slice(max(shift, 0), n + min(shift, 0)), (max(-shift, 0), max(shift, 0))


def max_pool(rank, partial=True):
    """Max pooling by 2; at odd sizes `partial` keeps the last window (`ceil_mode` in PyTorch)."""
    padding = "same" if partial else "valid"
    return {2: layers.MaxPool2D, 3: layers.MaxPool3D}[rank](2, padding=padding)


def check_rank(network, input_shape, rank):
    """Refuses the shape of a volume where a network is for pictures, or the reverse.

    Raises:
        ValueError: what was received and what was expected.
    """
    if len(input_shape) != rank + 1:
        kind = {2: "pictures, (height, width, channels)", 3: "volumes, (*three sizes, channels)"}
        raise ValueError(
            f"{network}: received input_shape={tuple(input_shape)}, expected that of {kind[rank]}; "
            "AERUNet, UNet, UNetPlusPlus, DynUNet and UNETR take either"
        )


def batch_norm(name=None, epsilon=1e-5):
    """Batch normalisation as in PyTorch (ε 1e-5, momentum 0.9), synchronised over replicas.

    Synchronised statistics make two workers equal one at the same global batch; that argument
    exists on the TensorFlow backend only.
    """
    return BatchNormalization(
        epsilon=epsilon, momentum=0.9, name=name, synchronized=_synchronized()
    )


def _synchronized():
    return keras.backend.backend() == "tensorflow"


# Named as in Keras, because files of weights name their layers after the class.
@keras.saving.register_keras_serializable("keras_meduda")
class BatchNormalization(layers.BatchNormalization):
    """Keras' layer, which learns no statistics from one value: its variance is 0.

    A branch that is pooled to one pixel has one value a channel in a batch of one. There Keras'
    running variance falls to 0 and the network that is deployed is another than was trained; here
    the running statistics are used and kept.
    """

    @classmethod
    def from_config(cls, config):
        """Synchronised or not as `batch_norm` makes it, on whichever backend it was saved."""
        return super().from_config(config | {"synchronized": _synchronized()})

    def call(self, inputs, training=None, mask=None):
        """Normalises by the batch, or by the running statistics."""
        strategy = getattr(self.moving_mean.value, "distribute_strategy", None)
        replicas = strategy.num_replicas_in_sync if strategy else 1
        single = replicas == 1 and all(n == 1 for n in inputs.shape[:-1])
        return super().call(inputs, training=training and not single, mask=mask)


def kaiming_normal(mode="fan_in"):
    """PyTorch's `kaiming_normal_`: N(0, 2 / fan); Keras' own `he_normal` is truncated.

    A function, not a constant: layers that share one initialiser object start out equal.
    """
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


@keras.saving.register_keras_serializable("keras_meduda")
def gelu(x):
    """x·Φ(x) through erf: TensorFlow's goes through erfc, which ONNX lacks."""
    return 0.5 * x * (1.0 + ops.erf(x / math.sqrt(2.0)))


def instance_norm(affine=True, name=None):
    """Instance normalisation as in PyTorch (ε 1e-5); `affine` adds a scale and an offset."""
    return layers.GroupNormalization(
        groups=-1, epsilon=1e-5, center=affine, scale=affine, name=name
    )


def padded_conv(filters, kernel_size, rank, strides=1, **kwargs):
    """A convolution with (k − 1)/2 zeros on both sides, as in PyTorch, whatever the stride.

    `padding="same"` gives a strided convolution fewer zeros in front than behind.
    """
    if per_axis(strides, rank) == (1,) * rank:
        return conv(filters, kernel_size, rank, **kwargs)
    pad = {2: layers.ZeroPadding2D, 3: layers.ZeroPadding3D}[rank]
    margin = tuple((size - 1) // 2 for size in per_axis(kernel_size, rank))
    convolve = conv(filters, kernel_size, rank, strides=strides, padding="valid", **kwargs)
    return lambda x: convolve(pad(margin)(x))


def per_axis(value, rank):
    """One number for all axes, or a sequence of one for each, as a tuple of length `rank`."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise ValueError(f"received {value!r}, expected one number or one for each of {rank} axes")
    return values


def instance_block(x, width, kernel_size=3, strides=1, residual=False, affine=True, name=None):
    """Two convolutions with instance normalisation and LeakyReLU 0.01, as in nnU-Net.

    With `residual` the second activation acts on the sum with the input, which passes a pointwise
    convolution where stride or width change. The parts are named as in MONAI, under `name`.
    """
    rank = len(x.shape) - 2
    strided = per_axis(strides, rank) != (1,) * rank

    def conv_norm(x, index, size, step):
        convolve = padded_conv(
            width,
            size,
            rank,
            step,
            use_bias=False,
            kernel_initializer=kaiming_normal(),
            name=f"{name}.conv{index}.conv",
        )
        return instance_norm(affine, name=f"{name}.norm{index}")(convolve(x))

    y = layers.LeakyReLU(0.01)(conv_norm(x, 1, kernel_size, strides))
    y = conv_norm(y, 2, kernel_size, 1)
    if residual:
        change = strided or x.shape[-1] != width
        y = layers.Add()([y, conv_norm(x, 3, 1, strides) if change else x])
    return layers.LeakyReLU(0.01)(y)


@keras.saving.register_keras_serializable("keras_meduda")
class CropToMatch(layers.Layer):
    """Crops the first tensor at the end of each spatial axis to the size of the second.

    A decoder that doubles a size which the encoder had rounded up is one pixel too large.
    """

    def call(self, inputs):
        x, reference = inputs
        size = ops.shape(reference)
        rank = len(x.shape) - 2
        if all(
            x.shape[i + 1] is not None and x.shape[i + 1] == reference.shape[i + 1]
            for i in range(rank)
        ):
            return x
        return x[(slice(None), *(slice(0, size[i + 1]) for i in range(rank)))]

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:-1], x[-1])


@keras.saving.register_keras_serializable("keras_meduda")
class ResizeTo(layers.Layer):
    """Linear resizing of the first tensor to the spatial size of the second, in 2D and 3D.

    One small matrix an axis, src = (dst + ½)·in/out − ½ clamped (PyTorch's
    `align_corners=False`, no antialias) or src = dst·(in − 1)/(out − 1).

    Args:
        align_corners: whether the corner pixels' centres coincide. Default `False`.
    """

    def __init__(self, align_corners=False, **kwargs):
        super().__init__(**kwargs)
        self.align_corners = align_corners

    def call(self, inputs):
        x, reference = inputs
        shape, target = list(ops.shape(x)), ops.shape(reference)
        for axis in range(1, len(shape) - 1):
            sizes = shape[axis], target[axis]
            static = all(isinstance(size, int) for size in sizes)
            if static and sizes[0] == sizes[1]:
                continue
            build = interpolation_matrix if static else _matrix_in_graph
            matrix = ops.cast(build(*sizes, self.align_corners), x.dtype)
            # A product over reshaped memory; einsum would transpose the whole tensor (3 × slower).
            flat = ops.reshape(x, (-1, sizes[0], math.prod(shape[axis + 1 :])))
            shape[axis] = sizes[1]
            x = ops.reshape(ops.matmul(matrix, flat), shape)
        return x

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (x[0], *reference[1:-1], x[-1])

    def get_config(self):
        return {**super().get_config(), "align_corners": self.align_corners}


def _matrix_in_graph(size_in, size_out, align_corners):
    """`interpolation_matrix` for sizes that are known only when the graph runs."""
    n_in, n_out = ops.cast(size_in, "float32"), ops.cast(size_out, "float32")
    target = ops.cast(ops.arange(size_out), "float32")
    if align_corners:
        source = target * (n_in - 1.0) / ops.maximum(n_out - 1.0, 1.0)
    else:
        source = ops.clip((target + 0.5) * n_in / n_out - 0.5, 0.0, n_in - 1.0)
    grid = ops.cast(ops.arange(size_in), "float32")
    return ops.maximum(0.0, 1.0 - ops.abs(grid[None, :] - source[:, None]))
