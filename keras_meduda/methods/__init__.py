"""The methods: each a `keras.Model` around the network that it trains."""

from keras_meduda.methods.category_regularization import CategoryRegularization
from keras_meduda.methods.foundation_distillation import FoundationDistillation
from keras_meduda.methods.kl_distillation import KLDistillation
from keras_meduda.methods.masked_consistency import MaskedConsistency
from keras_meduda.methods.source_free import SourceFree
from keras_meduda.methods.supervised import Supervised

__all__ = [
    "CategoryRegularization",
    "FoundationDistillation",
    "KLDistillation",
    "MaskedConsistency",
    "SourceFree",
    "Supervised",
]
