"""The networks: each a function that builds a functional `keras.Model`."""

from keras_meduda.models.aerunet import AERUNet
from keras_meduda.models.deeplab import DeepLabV3Plus
from keras_meduda.models.discriminator import Discriminator
from keras_meduda.models.dynunet import DynUNet
from keras_meduda.models.from_keras import from_keras
from keras_meduda.models.ratlesnet import RatLesNetV2
from keras_meduda.models.torch_weights import load_torch_weights
from keras_meduda.models.unet import UNet
from keras_meduda.models.unet_s5_d16 import UNetS5D16
from keras_meduda.models.unetpp import UNetPlusPlus
from keras_meduda.models.unetr import UNETR

__all__ = [
    "UNETR",
    "AERUNet",
    "DeepLabV3Plus",
    "Discriminator",
    "DynUNet",
    "RatLesNetV2",
    "UNet",
    "UNetPlusPlus",
    "UNetS5D16",
    "from_keras",
    "load_torch_weights",
]
