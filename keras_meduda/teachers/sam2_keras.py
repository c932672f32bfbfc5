"""SAM2 in Keras through zeromodels: soft masks of boxes on TensorFlow, without PyTorch.

Needs the extra `keras-meduda[sam2_keras]`; zeromodels is Apache-2.0.
"""

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np

from keras_meduda.teachers.boxes import as_rgb
from keras_meduda.teachers.targets import Teacher, of_boxes

VARIANT = "sam2_hiera_tiny"
SIDE = 1024  # zeromodels reads boxes in pixels of this square, whatever the network's own


def sam2_keras(weights=VARIANT) -> Teacher:
    """The teacher: one encoding an image, whatever the number of its boxes.

    The image is stretched to 0…255 and to a square of 1024 px. The logits of a box's single mask,
    256 px wide, pass a sigmoid. The embedding is 64 px wide.

    Args:
        weights: a `.keras` file of zeromodels' `SAM2PromptableSegment`, built with
            `include_box_input=True`, `multimask_output=False` and the default `image_size`, or a
            name that zeromodels knows and downloads. Default `"sam2_hiera_tiny"`.

    Raises:
        ImportError: zeromodels is missing.
        FileNotFoundError: a file that is not there.
        ValueError: a network that takes no boxes, draws several masks of each, or has another size.

    Source:
        Ravi et al., "SAM 2", arXiv 2408.00714.
    """
    network, name = _network(weights)
    from zeromodels.models.sam2 import SAM2Processor

    process = SAM2Processor(target_length=SIDE)

    def segment(image, boxes):
        rgb = as_rgb(image)
        asked = process(rgb, input_boxes=np.asarray(boxes, "float32"))
        prompts = {key: asked[key] for key in ("input_points", "input_labels", "input_boxes")}
        encoded = network.get_image_embeddings(asked["pixel_values"])
        found = network.prompt_decoder_model({**encoded, **prompts})
        logits = np.asarray(found["pred_masks"])[0, :, 0]
        quality = np.asarray(found["iou_scores"])[0, :, 0]
        maps = 1.0 / (1.0 + np.exp(-np.clip(logits, -50, 50)))
        return maps, np.clip(quality, 0, 1), np.asarray(encoded["image_embeddings"])[0]

    version = f"{name}, {SIDE} px, zeromodels {importlib.metadata.version('zeromodels')}"
    return of_boxes("sam2_keras", version, segment)


def _network(weights):
    """The network, and its name with the checksum of its file."""
    try:
        from zeromodels.models.sam2 import SAM2PromptableSegment
    except ImportError as error:
        raise ImportError(
            "The teacher sam2_keras needs zeromodels: pip install 'keras-meduda[sam2_keras]'."
        ) from error
    if not str(weights).endswith(".keras"):
        settings = {"include_box_input": True, "multimask_output": False}
        return SAM2PromptableSegment.from_weights(str(weights), **settings), str(weights)
    import keras

    file = Path(weights)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a network of zeromodels' SAM2.")
    network = keras.saving.load_model(file)
    wanted = {"include_box_input": True, "multimask_output": False, "image_size": (SIDE, SIDE, 3)}
    found = {key: getattr(network, key, None) for key in wanted}
    if not isinstance(network, SAM2PromptableSegment) or found != wanted:
        raise ValueError(
            f"{file}: {type(network).__name__} with {found}; expected zeromodels' "
            f"SAM2PromptableSegment with include_box_input=True, multimask_output=False and "
            f"image_size={SIDE}."
        )
    return network, f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
