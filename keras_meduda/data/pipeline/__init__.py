"""From case tables to training batches: prepared arrays on disk, read in graph by tf.data."""

from keras_meduda.data.pipeline.batches import Batches
from keras_meduda.data.pipeline.prepared import Prepared, prepare, prepared_bytes
from keras_meduda.data.pipeline.taught import add_teacher
from keras_meduda.data.pipeline.twins import add_styles, order_ratio

__all__ = [
    "Batches",
    "Prepared",
    "add_styles",
    "add_teacher",
    "order_ratio",
    "prepare",
    "prepared_bytes",
]
