"""How B-scans are trained on: by the published configurations, and by a recipe of ours."""

from functools import partial

import keras

from keras_meduda import losses, models
from keras_meduda.data.augment import Geometry, Photometry, RandomCrop
from keras_meduda.optimizers import AdamWithL2, SGDWithL2
from keras_meduda.run.sliding import SlidingWindow
from keras_meduda.task import Preprocessing

PUBLISHED = {  # what a row of the published table has beside 400 steps of CE and SGD
    "steps_200": {"steps": 200},
    "steps_400": {},
    "flip": {"flip": True},
    "crop_192": {"crop": 192},
    "crop_224": {"crop": 224},
    "crop_320": {"crop": 320},
    "dice": {"crop": 320, "loss": "joint_dice_loss"},
    "focal": {"crop": 320, "loss": "focal_loss"},
    "adam": {"crop": 320, "adam": True},
    "best": {"crop": 320, "l2": 1e-4},
    "l2_1e-3": {"crop": 320, "l2": 1e-3},  # in the published table, without a run behind it
}


def own(size, start, smoke=False):
    """Our recipe: a residual U-Net on whole images, CE + Dice, AdamW, flip, scale and contrast."""
    filters = (8, 16, 32) if smoke else (16, 32, 64, 128, 256)
    grid = {"size": (size, size), "normalise": "zero_one", "channels": 1}
    return {
        "preprocessing": Preprocessing(**{**grid, **start.ranged}),
        "network": partial(
            models.AERUNet, filters=filters, backbone=start.backbone, weights=start.weights
        ),
        "optimizer": lambda steps: keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(1e-3, steps), weight_decay=1e-2
        ),
        "steps": 800,
        "batch_size": 8,
        "loss": losses.segmentation,
        "batches": {
            "geometry": Geometry(rotation=10.0, scale=0.25),
            "source_photometry": Photometry(brightness=0.1, blur=0.5, noise=0.02, probability=0.5),
        },
    }


def published(
    size, head, steps=400, crop=None, flip=False, loss="cross_entropy", adam=False, l2=5e-4
):
    """A row of the published table; crops, windows and strides shrink with a smaller size.

    One step of its inference differs. There the averaged logits are resized to the picture's own
    grid and the larger one wins; here it is the probabilities of the averaged logits that are
    resized, as everywhere in this library.
    """

    def scaled(pixels):
        return (round(pixels * size / 512),) * 2

    def optimizer(steps):
        # The published schedule ends at 40,000 steps, of which training takes the first few.
        poly = keras.optimizers.schedules.PolynomialDecay(0.01, 40_000, 1e-4, power=0.9)
        return AdamWithL2(poly, l2=l2) if adam else SGDWithL2(poly, momentum=0.9, l2=l2)

    return {
        "preprocessing": Preprocessing(size=(size, size), normalise="imagenet"),
        "network": lambda shape, channels: models.UNetS5D16(
            (None, None, 3), channels, head=head
        ),
        "optimizer": optimizer,
        "steps": steps,
        "batch_size": 2,
        "loss": getattr(losses, loss),
        "aux_weights": {"aux_1": 0.4 if loss == "cross_entropy" else 1.0},
        "batches": {
            "geometry": Geometry(flip=flip, rotation=0.0, scale=0.0, shift=0.0),
            "crop": RandomCrop(scaled(crop)) if crop else None,
        },
        "window": SlidingWindow(scaled(256), scaled(170)),
    }
