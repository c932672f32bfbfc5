"""The training steps of the speed table: ours, those of the peers, and what they train on."""

import os
import tempfile

import numpy as np

OURS = "keras_meduda"
JAX = "keras_meduda on jax"


def ours_step(network, image_shape, channels):
    """One step of Adam on the cross-entropy of a fixed batch, as `km.fit` takes it."""
    import keras
    import tensorflow as tf

    import keras_meduda as km

    method = km.methods.Supervised(network, overlapping=False, loss=km.losses.cross_entropy)
    method.compile(keras.optimizers.Adam(1e-3))
    method.build()
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=image_shape), "float32")
    mask = tf.one_hot(rng.integers(0, channels, image_shape[:-1]), channels)
    batch = {"source": {"image": image, "mask": mask}}
    compiled = bool(tf.config.list_physical_devices("GPU"))
    step = tf.function(method.train_step, jit_compile=compiled, autograph=False)
    return lambda: step(batch)["loss"].numpy()


def jax_step(network, image_shape, channels):
    """The same step of the bare network on the JAX backend, compiled whole."""
    import jax
    import keras

    import keras_meduda as km

    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)
    rng = np.random.default_rng(0)
    image = rng.normal(size=image_shape).astype("float32")
    mask = np.eye(channels, dtype="float32")[rng.integers(0, channels, image_shape[:-1])]

    @jax.jit
    def step(weights, others, moments):
        def loss_of(weights):
            outputs, after = network.stateless_call(weights, others, image, training=True)
            return km.losses.cross_entropy(mask, outputs["logits"], overlapping=False), after

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        weights, moments = optimizer.stateless_apply(moments, gradients, weights)
        return loss, (weights, others, moments)

    states = network.trainable_variables, network.non_trainable_variables, optimizer.variables
    state = [[variable.value for variable in part] for part in states]

    def work():
        nonlocal state
        loss, state = step(*state)
        loss.block_until_ready()

    return work


def train_step(peer, name, sizes):
    """One training step of the same network on the same batch."""
    spatial, channels, image, batch = sizes[name]
    if peer in (OURS, JAX):
        if peer == JAX:
            os.environ["KERAS_BACKEND"] = "jax"
        import keras_meduda as km

        network = getattr(km.models, name)((*spatial, image), channels, **OURS_SETTINGS[name])
        step = jax_step if peer == JAX else ours_step
        return step(network, (batch, *spatial, image), channels)
    from torch_networks import AERUNet, RatLesNetV2, UNetPlusPlus, training_step

    if peer == "monai":
        from monai.networks import nets

        network = {
            "UNet": lambda: nets.UNet(3, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2),
            "DynUNet": lambda: nets.DynUNet(
                3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], (16, 32, 64, 128), res_block=False
            ),
            "UNETR": lambda: nets.UNETR(1, 2, spatial, hidden_size=192, mlp_dim=768, num_heads=4),
        }[name]()
    elif peer == "smp (resnet18 encoder)":
        from segmentation_models_pytorch import UnetPlusPlus

        network = UnetPlusPlus("resnet18", encoder_weights=None, classes=2)
    else:
        own = {"AERUNet": AERUNet, "RatLesNetV2": RatLesNetV2, "UNetPlusPlus": UNetPlusPlus}
        network = own[name](2)
    return training_step(network, (batch, image, *spatial), channels)


TRAINED = {  # spatial size, logit channels, image channels, batch
    "AERUNet": ((48, 48, 48), 2, 1, 1),
    "RatLesNetV2": ((32, 96, 96), 2, 1, 1),
    "UNet": ((48, 48, 48), 2, 1, 1),
    "DynUNet": ((48, 48, 48), 2, 1, 1),
    "UNETR": ((48, 48, 48), 2, 1, 1),
    "UNetPlusPlus": ((128, 128), 2, 3, 1),
}
TRAINED_ON_GPU = {
    **{name: ((96, 96, 96), 2, 1, 2) for name in ("AERUNet", "UNet", "DynUNet", "UNETR")},
    "RatLesNetV2": ((32, 96, 96), 2, 1, 8),
    "UNetPlusPlus": ((256, 256), 2, 3, 16),
}
OURS_SETTINGS = {
    "AERUNet": {"filters": (16, 32, 64, 128)},
    "RatLesNetV2": {},
    "UNet": {"filters": (16, 32, 64, 128), "norm": "instance"},
    "DynUNet": {
        "filters": (16, 32, 64, 128),
        "kernel_sizes": (3,) * 4,
        "strides": (1, 2, 2, 2),
    },
    "UNETR": {"hidden": 192, "mlp": 768, "heads": 4},
    "UNetPlusPlus": {},
}


def phantom_batches(folder, size=96, batch=8):
    """Batches of the fundus phantoms, prepared in a folder."""
    import keras_meduda as km
    from keras_meduda.data.phantoms import write_fundus
    from keras_meduda.data.pipeline import Batches, prepare

    cases = km.read_cases(write_fundus(folder, cases_per_domain=16, size=size))
    values = {"cup": (255,), "disc": (128, 255)}
    task = km.Task(classes=("cup", "disc"), overlapping=True, values=values)
    preprocessing = km.Preprocessing(size=(size, size), intensity=("clahe",))
    source = cases[cases["domain"] == "camera_a"]
    return Batches(batch, source=prepare(source, task, preprocessing, folder, labels=True))


def small_method(size=96):
    """AERUNet with a supervised loss and Adam."""
    import keras

    import keras_meduda as km

    with km.setup():
        network = km.models.AERUNet((size, size, 3), channels=2, filters=(8, 16, 32, 64))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    method.build()
    return method


def loading(peer):
    """A training step with real loading and augmentation; the peer is a batch that is kept."""
    import tensorflow as tf

    batches = iter(phantom_batches(tempfile.mkdtemp()).from_step(0))
    step, kept = tf.function(small_method().train_step, autograph=False), next(batches)
    if peer == OURS:
        return lambda: [step(next(batches))["loss"].numpy() for _ in range(10)]
    return lambda: [step(kept)["loss"].numpy() for _ in range(10)]


def regularisation(peer):
    """A full step of UDA_CLR, 8 + 8 images of 192² and 8 passes; the peer sees 16 with masks."""
    import keras
    import tensorflow as tf

    import keras_meduda as km

    rng, side = np.random.default_rng(0), 192

    def images(count, channels=3):
        return tf.constant(rng.random((count, side, side, channels), "float32"))

    network = km.models.DeepLabV3Plus((side, side, 3), channels=2)
    if peer == OURS:
        method = km.methods.CategoryRegularization(network, overlapping=True, warm_up=0.0)
        batch = {"source": {"image": images(8), "mask": tf.round(images(8, 2))}}
        batch["source"]["boundary"] = images(8, 1)
        batch["target"] = {"image": images(8), "strong": images(8)}
    else:
        method = km.methods.Supervised(network, overlapping=True)
        batch = {"source": {"image": images(16), "mask": tf.round(images(16, 2))}}
    method.compile(keras.optimizers.Adam(1e-3), discriminator_optimizer=keras.optimizers.SGD())
    method.total_steps = 1000
    method.build()
    step = tf.function(method.train_step, autograph=False)
    return lambda: step(batch)["loss"].numpy()


def atrous_step(peer):
    """A training step of DeepLabV3+, 8 images of 128²; the peer dilates as Keras does."""
    from keras import layers

    import keras_meduda as km
    from keras_meduda.models import blocks

    if peer != OURS:
        blocks.Conv2D = layers.Conv2D
    network = km.models.DeepLabV3Plus((128, 128, 3), channels=2)
    return ours_step(network, (8, 128, 128, 3), 2)


def stochastic_passes(peer):
    """Eight passes with dropout through DeepLabV3+, 8 images of 192²: the head's, or whole ones."""
    import tensorflow as tf

    import keras_meduda as km
    from keras_meduda.methods.stochastic import stochastic

    images = tf.constant(np.random.default_rng(0).random((8, 192, 192, 3), "float32"))
    network = km.models.DeepLabV3Plus((192, 192, 3), channels=2)
    encoder, head = stochastic(network)

    @tf.function
    def passes():
        if peer == OURS:
            encoded = encoder(images, training=False)
            return tf.stack([head(encoded) for _ in range(8)])
        # Other images each time, so that no pass of the encoder is found to be another's twin.
        return tf.stack([head(encoder(images + 1e-6 * i, training=False)) for i in range(8)])

    return lambda: passes().numpy()


PEERS = {  # of the training steps; the first is the one that counts
    **dict.fromkeys(("DynUNet", "UNETR"), ("monai",)),
    "UNet": ("monai", JAX),
    **dict.fromkeys(("AERUNet", "RatLesNetV2"), ("pytorch",)),
    "UNetPlusPlus": ("pytorch", "smp (resnet18 encoder)", JAX),
}
