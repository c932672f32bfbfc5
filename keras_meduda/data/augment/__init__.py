"""Random augmentation in graph code, by rank: pictures `(H, W, C)` and volumes `(D, H, W, C)`.

Sampling stands apart from applying, and everything is stateless: a seed `(2,)` in, the same
augmentation out. Images are float32, in 0…255 or z-scored; zero strength is the identity.
"""

from keras_meduda.data.augment.appearance import (
    Degradation,
    Intensity,
    Photometry,
    blur,
    degrade,
    recolour,
    rescan,
)
from keras_meduda.data.augment.contrast import GIN, LabelCurves, RandomTable, levels
from keras_meduda.data.augment.effects import Effect, change, check_effect
from keras_meduda.data.augment.geometry import (
    Deformation,
    Geometry,
    displace,
    on_grid,
    warp,
    warp_volume,
)
from keras_meduda.data.augment.places import RandomCrop, RandomPatch

__all__ = [
    "GIN",
    "Deformation",
    "Degradation",
    "Effect",
    "Geometry",
    "Intensity",
    "LabelCurves",
    "Photometry",
    "RandomCrop",
    "RandomPatch",
    "RandomTable",
    "blur",
    "change",
    "check_effect",
    "degrade",
    "displace",
    "levels",
    "on_grid",
    "recolour",
    "rescan",
    "warp",
    "warp_volume",
]
