"""The few functions of TensorFlow that make training batches, on JAX.

For machines with a GPU and JAX but without TensorFlow: with this folder on PYTHONPATH the library's
own augmentation runs there as it is written. Random numbers are those of JAX: the same draws in
distribution, not in value. Of pictures alone; what is not here fails when it is called.
"""

import sys
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

float32, int32, bool = jnp.float32, jnp.int32, jnp.bool_
Tensor = jax.Array

abs, cos, sin, exp, floor, round, sqrt = (
    jnp.abs, jnp.cos, jnp.sin, jnp.exp, jnp.floor, jnp.round, jnp.sqrt
)  # fmt: skip
where, maximum, minimum, stack, reshape, tile, ones, argmax, transpose = (
    jnp.where, jnp.maximum, jnp.minimum, jnp.stack, jnp.reshape, jnp.tile, jnp.ones, jnp.argmax,
    jnp.transpose,
)  # fmt: skip
meshgrid = jnp.meshgrid
reduce_mean, reduce_sum, reduce_prod, reduce_any = jnp.mean, jnp.sum, jnp.prod, jnp.any
reduce_min, reduce_max, clip_by_value = jnp.min, jnp.max, jnp.clip


class InMemory:
    """Arrays in the place of file names: the i-th "file" is the i-th array."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return self.array[index]


def _dtype(dtype):
    """JAX's, which has no 64 bits unless it is told to."""
    return {"int64": "int32", "float64": "float32"}.get(np.dtype(dtype).name, dtype)


def concat(parts, axis=0):
    return jnp.concatenate([jnp.asarray(part) for part in parts], axis)


def cast(x, dtype):
    known = isinstance(x, np.ndarray)  # sizes, while a function is compiled
    return (x if known else jnp.asarray(x)).astype(_dtype(dtype))


def shape(x):
    return np.array(x.shape)


def constant(x, dtype=None):
    if isinstance(x, InMemory):
        return x
    return jnp.asarray(x, dtype and _dtype(dtype))


def gather(x, index, axis=0):
    return jnp.take(x.array if isinstance(x, InMemory) else jnp.asarray(x), index, axis=axis)


def gather_nd(x, index):
    return x[tuple(jnp.moveaxis(index, -1, 0))]


def unstack(x, axis=0):
    return [jnp.squeeze(part, axis) for part in jnp.split(x, x.shape[axis], axis)]


def range(*limits, dtype=None):
    return jnp.arange(*limits, dtype=dtype and _dtype(dtype))


def slice(x, begin, size):
    return jax.lax.dynamic_slice(x, tuple(begin), tuple(size))


def pad(x, margins, mode="CONSTANT"):
    return jnp.pad(x, margins, mode.lower())


def norm(x, axis, keepdims):
    return jnp.linalg.norm(x, axis=axis, keepdims=keepdims)


def map_fn(function, x, fn_output_signature=None):
    return jax.vmap(function)(x)


def function(input_signature=None, jit_compile=True):
    return jax.jit


def TensorSpec(shape, dtype):  # noqa: N802
    return jax.ShapeDtypeStruct((0, *shape[1:]), dtype)


def _uniform(shape, seed, minval=0.0, maxval=1.0, dtype="float32"):
    draw = jax.random.randint if np.dtype(dtype).kind == "i" else jax.random.uniform
    return draw(_key(seed), tuple(shape), minval=minval, maxval=maxval, dtype=_dtype(dtype))


def _key(seed):
    """The two integers of a stateless seed as a key of JAX."""
    return jax.random.wrap_key_data(jnp.asarray(seed).astype("uint32"), impl="threefry2x32")


def _seeds(keys):
    return jax.random.key_data(keys).astype("int32")


random = SimpleNamespace(
    stateless_uniform=_uniform,
    stateless_normal=lambda shape, seed: jax.random.normal(_key(seed), tuple(shape)),
    split=lambda seed, num: _seeds(jax.random.split(_key(seed), num)),
    fold_in=lambda seed, data: _seeds(jax.random.fold_in(_key(seed), data)),
    experimental=SimpleNamespace(
        stateless_shuffle=lambda x, seed: jax.random.permutation(_key(seed), x)
    ),
    set_seed=lambda seed: None,
)


def _transformed(images, transforms, output_shape, interpolation, fill_mode, fill_value):
    """`ImageProjectiveTransformV3` of one image, mirrored at the border or with 0 beyond it."""
    image, t = images[0].astype("float32"), transforms[0]
    *size, _ = image.shape
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype="float32") for n in size), indexing="ij")
    depth = t[6] * x + t[7] * y + 1.0
    places = [(t[3] * x + t[4] * y + t[5]) / depth, (t[0] * x + t[1] * y + t[2]) / depth]
    if fill_mode == "REFLECT":
        places = [
            jnp.clip(n - jnp.abs((p + 0.5) % (2 * n) - n) - 0.5, 0.0, n - 1.0)
            for p, n in zip(places, size, strict=True)
        ]

    def read(row, column):
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        row, column = (
            jnp.clip(i, 0, n - 1).astype("int32") for i, n in zip((row, column), size, strict=True)
        )
        return jnp.where(inside[..., None], image[row, column], fill_value)

    if interpolation == "NEAREST":
        # halves go away from 0
        result = read(*(jnp.trunc(p + jnp.copysign(0.5, p)) for p in places))
    else:
        (top, left), result = (jnp.floor(p) for p in places), 0.0
        for i, j in np.ndindex(2, 2):
            share = (1 - jnp.abs(places[0] - top - i)) * (1 - jnp.abs(places[1] - left - j))
            result += share[..., None] * read(top + i, left + j)
    return result.astype(images.dtype)[None]


raw_ops = SimpleNamespace(ImageProjectiveTransformV3=_transformed)


def _depthwise_conv2d(x, kernel, strides, padding):
    """Of a kernel of which every channel has one filter."""
    return jax.lax.conv_general_dilated(
        x,
        jnp.transpose(jnp.asarray(kernel), (0, 1, 3, 2)),
        strides[1:3],
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


def _adjust_hue(image, delta):
    """Turns the colours by a share of their circle, value and saturation kept."""
    red, green, blue = unstack(image, axis=-1)
    value, low = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    chroma = jnp.where(value > low, value - low, 1.0)
    hue = jnp.where(
        value == red,
        (green - blue) / chroma,
        jnp.where(value == green, 2.0 + (blue - red) / chroma, 4.0 + (red - green) / chroma),
    )
    hue = (hue / 6.0 + delta) % 1.0
    ramps = jnp.stack(
        [jnp.abs(hue * 6 - 3) - 1, 2 - jnp.abs(hue * 6 - 2), 2 - jnp.abs(hue * 6 - 4)], -1
    )
    return low[..., None] + (value - low)[..., None] * jnp.clip(ramps, 0.0, 1.0)


nn = SimpleNamespace(depthwise_conv2d=_depthwise_conv2d)
image = SimpleNamespace(adjust_hue=_adjust_hue)
linalg = SimpleNamespace(matvec=jnp.matmul)
math = SimpleNamespace(bincount=lambda x: jnp.bincount(x.ravel(), length=256))
bitwise = SimpleNamespace(right_shift=jnp.right_shift)
io = SimpleNamespace(read_file=lambda file: file, decode_raw=lambda raw, dtype: raw)
autograph = SimpleNamespace(experimental=SimpleNamespace(do_not_convert=lambda function: function))
config = SimpleNamespace(list_physical_devices=lambda kind: [])
distribute = SimpleNamespace(
    get_replica_context=lambda: None,
    get_strategy=lambda: SimpleNamespace(scope=lambda: jax.named_scope("here")),
)


class TensorShape:
    """Keras asks whether what it saves is one of these three."""


class DType(TensorShape):
    pass


class TypeSpec(TensorShape):
    pass


class _Missing:
    """A name that is mentioned where the library is imported and is not called."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        return _Missing(f"{self.name}.{name}")

    def __call__(self, *args, **kwargs):
        raise NotImplementedError(f"{self.name} of TensorFlow, which is not on this machine.")


class _Module(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"tf.{name}")


sys.modules[__name__].__class__ = _Module
