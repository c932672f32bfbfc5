"""DeepLabV3+ with a boundary branch: the segmentation network of BEAL and UDA_CLR."""

import keras
import numpy as np
from keras import layers

from keras_meduda.models import encoders
from keras_meduda.models.blocks import (
    CropToMatch,
    ResizeTo,
    batch_norm,
    check_rank,
    conv,
    kaiming_normal,
)
from keras_meduda.models.checkpoints import begin
from keras_meduda.models.needs import needs


@needs(ranks=(2,))
def DeepLabV3Plus(input_shape, channels, backbone="mobilenetv2", boundary=True, weights=None,
                  name="deeplabv3plus"):
    """DeepLabV3+ at output stride 16 whose mask branch also reads the boundary logit.

    Two sub-models, `head(encoder(image))`. The encoder (backbone and atrous pyramid) is
    deterministic; all four dropouts are in the head, so that T stochastic passes cost one encoder
    pass: `features = network.get_layer("encoder")(image)`, then T times
    `network.get_layer("head")(features)`.

    Odd sizes, as in the original: a strided convolution pads one zero on both sides (35 → 18),
    upsampling interpolates to the size of the low-level features, and of the image.

    Args:
        input_shape: `(height, width, image channels)`; the spatial sizes may be `None` and need
            not divide the stride.
        channels: number of logit channels.
        backbone: `"mobilenetv2"` (5.8 M parameters, as published), `"resnet50"`, or without atrous
            stages `"efficientnetv2b0"` or `"convnexttiny"`, cut at stride 16 (`encoders.encode`).
        boundary: whether there is a boundary branch. Default `True`.
        weights: `None` (random), `"imagenet"` (the backbone's, a download), or a file of the
            backbone in keras.applications' form or of this network. Of images without three
            channels each counts as a grey picture: the first convolution is summed over the
            colours and shared out. Default `None`.
        name: name of the model.

    Returns:
        `keras.Model` from float32 `(batch, height, width, in)`, images scaled to [−1, 1], to
        `{"logits": (batch, height, width, channels) float32, "features": what the mask branch
        reads, (batch, ~height / 4, ~width / 4, 304 + 1 with boundary), "logits_low": the logits
        there}` and with `boundary` the logits `"boundary"` `(batch, height, width, 1)` and
        `"boundary_low"`.

    Raises:
        ValueError: a backbone of another name, a volume, or a file of another network.
        FileNotFoundError: no such file of weights.
        ConnectionError: the ImageNet weights cannot be downloaded.

    Source:
        UDA_CLR (arXiv 2207.03684) after BEAL (arXiv 1906.11143) and DeepLabV3+ (arXiv
        1802.02611). Layers carry the names of UDA_CLR's PyTorch release.

    Example:
        >>> DeepLabV3Plus((512, 512, 3), channels=2).count_params()  # 5,812,135 train
        5848489
    """
    check_rank("DeepLabV3Plus", input_shape, 2)
    encoders.check(backbone, input_shape)
    atrous = {"mobilenetv2": mobilenetv2, "resnet50": resnet50}.get(backbone)

    # Layers
    def conv_norm_relu(x, width, size, names, dilation=1):
        conv_name, norm_name = names
        x = conv(width, size, 2, dilation_rate=dilation, use_bias=False,
                 kernel_initializer=kaiming_normal(), name=conv_name)(x)
        return layers.ReLU()(batch_norm(norm_name)(x))

    def atrous_pyramid(x):
        branches = []
        for i, dilation in enumerate((1, 6, 12, 18), start=1):
            names = f"aspp.aspp{i}.atrous_conv", f"aspp.aspp{i}.bn"
            branches.append(conv_norm_relu(x, 256, 1 if i == 1 else 3, names, dilation))
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
        names = "aspp.global_avg_pool.1", "aspp.global_avg_pool.2"
        pooled = conv_norm_relu(pooled, 256, 1, names)
        branches.append(ResizeTo(align_corners=True)([pooled, x]))
        return conv_norm_relu(layers.Concatenate()(branches), 256, 1, ("aspp.conv1", "aspp.bn1"))

    def boundary_branch(x):
        branch = "decoder.last_conv_boundary"
        x = conv_norm_relu(x, 256, 3, (f"{branch}.0", f"{branch}.1"))
        x = conv_norm_relu(layers.Dropout(0.5)(x), 256, 3, (f"{branch}.4", f"{branch}.5"))
        return classify(layers.Dropout(0.1)(x), 1, f"{branch}.8")

    def mask_branch(x):
        x = layers.ReLU()(batch_norm("decoder.last_conv.0")(x))
        return classify(layers.Dropout(0.1)(x), channels, "decoder.last_conv.3")

    def classify(x, width, name):
        return conv(width, 1, 2, kernel_initializer=kaiming_normal(), dtype="float32", name=name)(x)

    def full_size(logits, image):
        whole = image if atrous else encoders.PadToMultiple(16)(image)
        logits = ResizeTo(align_corners=True, dtype="float32")([logits, whole])
        return logits if atrous else CropToMatch(dtype="float32")([logits, image])

    # Functional model
    image = keras.Input(input_shape, name="image")
    if atrous:
        low_level, high_level = atrous(image)
    else:
        _, _, low_level, _, high_level = encoders.encode(image, backbone, levels=4)
    encoder = keras.Model(image, {"image": image, "low_level": low_level,
                                  "pyramid": atrous_pyramid(high_level)}, name="encoder")

    inputs = {key: keras.Input(x.shape[1:], dtype=x.dtype, name=key)
              for key, x in encoder.output.items()}
    low_level = conv_norm_relu(inputs["low_level"], 48, 1, ("decoder.conv1", "decoder.bn1"))
    x = ResizeTo(align_corners=True)([layers.Dropout(0.5)(inputs["pyramid"]), low_level])
    x = layers.Concatenate()([x, low_level])
    outputs = {}
    if boundary:
        outputs["boundary_low"] = boundary_branch(x)
        outputs["boundary"] = full_size(outputs["boundary_low"], inputs["image"])
        x = layers.Concatenate()([x, outputs["boundary_low"]])
    outputs["features"] = layers.Identity(name="features")(x)
    outputs["logits_low"] = mask_branch(outputs["features"])
    outputs["logits"] = full_size(outputs["logits_low"], inputs["image"])
    head = keras.Model(inputs, outputs, name="head")

    # Config
    network = keras.Model(image, head(encoder(image)), name=name)
    return begin(network, weights, backbone, transfer_backbone if atrous else encoders.transfer)


def mobilenetv2(image):
    """The features of MobileNetV2 (arXiv 1801.04381) at 1/4 and 1/16, as UDA_CLR has it.

    Only the last block is dilated and the one before has no stride.
    """
    stem = "backbone.features.0"
    x = layers.ZeroPadding2D(1)(image)
    x = conv(32, 3, 2, strides=2, padding="valid", use_bias=False,
             kernel_initializer=kaiming_normal(), name=f"{stem}.0")(x)
    x = layers.ReLU(6)(batch_norm(f"{stem}.1")(x))
    block = 1
    for expansion, width, repeats, stride, dilation in (
            (1, 16, 1, 1, 1), (6, 24, 2, 2, 1), (6, 32, 3, 2, 1), (6, 64, 4, 2, 1),
            (6, 96, 3, 1, 1), (6, 160, 3, 1, 1), (6, 320, 1, 1, 2)):
        for i in range(repeats):
            x = inverted_residual(x, width, expansion, stride if i == 0 else 1, dilation,
                                  f"backbone.features.{block}.conv")
            block += 1
        if width == 24:
            low_level = x
    return low_level, x


def inverted_residual(x, width, expansion, stride, dilation, name):
    """Expand 1×1, depthwise 3×3, project 1×1; the input itself is padded, ahead of the expansion.

    So the depthwise convolution sees ReLU6(BN(0)) beyond the border, not zero.
    """
    def conv_norm(x, layer, index):
        return batch_norm(f"{name}.{index + 1}")(layer(x))

    shortcut, expanded = x, expansion * x.shape[-1]
    x = layers.ZeroPadding2D(dilation)(x)
    index = 0
    if expansion > 1:
        expand = conv(expanded, 1, 2, use_bias=False, kernel_initializer=kaiming_normal(),
                      name=f"{name}.{index}")
        x = layers.ReLU(6)(conv_norm(x, expand, index))
        index += 3
    # Keras counts all channels as a depthwise filter's fan-in, PyTorch the one it reads.
    initial = keras.initializers.RandomNormal(stddev=(2 / 9) ** 0.5)
    depthwise = layers.DepthwiseConv2D(3, strides=stride, dilation_rate=dilation, use_bias=False,
                                       depthwise_initializer=initial, name=f"{name}.{index}")
    x = layers.ReLU(6)(conv_norm(x, depthwise, index))
    index += 3
    project = conv(width, 1, 2, use_bias=False, kernel_initializer=kaiming_normal(),
                   name=f"{name}.{index}")
    x = conv_norm(x, project, index)
    return layers.Add()([shortcut, x]) if stride == 1 and shortcut.shape[-1] == width else x


def resnet50(image):
    """The features of ResNet-50 at 1/4 and 1/16, its last stage dilated, not strided."""
    def adapt(layer):
        config = {**layer.get_config(), "name": f"backbone.{layer.name}"}
        if isinstance(layer, layers.BatchNormalization):
            return batch_norm(config["name"])
        if layer.name in ("conv5_block1_0_conv", "conv5_block1_1_conv"):
            config["strides"] = 1
        elif layer.name.startswith("conv5_") and layer.name.endswith("_2_conv"):
            config["dilation_rate"] = 2
        return layer.__class__.from_config(config)

    original = keras.applications.ResNet50(include_top=False, weights=None,
                                           input_shape=(None, None, image.shape[-1]))
    adapted = keras.models.clone_model(original, input_tensors=image, clone_function=adapt)
    return adapted.get_layer("backbone.conv2_block3_out").output, adapted.output


def transfer_backbone(network, application):
    """Copies a keras.applications network into the backbone; both list their layers in one order.

    Their batch norm divides by √(σ² + ε) with another ε than ours: the difference goes into σ².
    ResNet-50 was trained on BGR minus the mean colour, at 0…255: its first convolution takes that
    over, exactly so but for the image border, which is padded with mid-grey instead. Of images
    without three channels each reads its share of the sum over the colours.
    """
    ours = [layer for layer in network.get_layer("encoder").layers
            if layer.weights and layer.name.startswith("backbone.")]
    theirs = [layer for layer in application.layers if layer.weights]
    # What follows the last of ours in MobileNetV2 belongs to its classifier.
    for layer, source in zip(ours, theirs, strict=False):
        values = source.get_weights()
        if isinstance(layer, layers.BatchNormalization):
            values[3] += source.epsilon - layer.epsilon
        if layer.name == "backbone.conv1_conv":
            kernel, bias = values
            mean_bgr = [103.939, 116.779, 123.68]
            bias = bias + ((127.5 - kernel.dtype.type(mean_bgr)) @ kernel.sum(axis=(0, 1)))
            values = [127.5 * kernel[:, :, ::-1], bias]
        if layer is ours[0] and (channels := layer.kernel.shape[2]) != 3:
            kernel = values[0].sum(axis=2, keepdims=True) / channels
            values[0] = np.repeat(kernel, channels, axis=2)
        layer.set_weights(values)
