"""Which weights an adaptation of photographs begins with, where its flags leave that open."""

import inspect
import json
from dataclasses import replace

from keras_meduda import models
from keras_meduda.models import encoders

BACKBONE = "mobilenetv2"


def from_imagenet(flags, volumes):
    """The flags of an adaptation of photographs with the start that they leave open.

    The encoder MobileNetV2 with ImageNet's weights, where the network takes an encoder and Keras
    has the weights or can download them; else random weights, and a line says what can be done. A
    run folder goes on as it began. `--weights random` asks for random ones.

    Args:
        flags: with `network`, `backbone`, `weights`, `init`, `out`, `resume` and `smoke`.
        volumes: whether the images are volumes, for which there is no such start.

    Raises:
        ValueError: the weights are in Keras' folder, but damaged.
    """
    if flags.weights == "random":
        return replace(flags, weights=None)
    builder = getattr(models, flags.network)
    takes = "backbone" in inspect.signature(builder).parameters
    given = flags.backbone or flags.weights or flags.init
    if given or flags.smoke or volumes or not takes:
        return flags
    begun = flags.out / "source_only" / "config.json"
    if flags.resume and begun.exists() and not json.loads(begun.read_text()).get("weights"):
        return flags
    try:
        encoders.application(BACKBONE, "imagenet")
    except ConnectionError:
        file = encoders.kept_file(BACKBONE)
        print(
            f"{flags.network} starts from random weights: ImageNet's of {BACKBONE}, a better start "
            "for photographs, could not be downloaded. To start from them, put the file "
            f"{file.name} into {file.parent}, or name it: --backbone {BACKBONE} --weights FILE."
        )
        return flags
    print(f"{flags.network} starts from ImageNet's {BACKBONE} (--weights random: it does not).")
    return replace(flags, backbone=BACKBONE, weights="imagenet")
