"""From case tables to training batches: prepared arrays on disk, read in graph by tf.data."""

from keras_meduda.data.pipeline.batches import Batches
from keras_meduda.data.pipeline.prepared import (
    Prepared,
    add_styles,
    add_teacher,
    order_ratio,
    prepare,
    prepared_bytes,
)

__all__ = [
    "Batches",
    "Prepared",
    "add_styles",
    "add_teacher",
    "order_ratio",
    "prepare",
    "prepared_bytes",
]
