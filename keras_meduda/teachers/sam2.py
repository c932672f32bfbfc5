"""SAM2 through ultralytics: soft masks of boxes, and its image embedding.

Needs the extra `keras-meduda[teacher]` and SAM2's weights; ultralytics is AGPL-3.0.
"""

import hashlib
import inspect

import numpy as np

from keras_meduda.teachers._ultralytics import load_ultralytics, weights_file
from keras_meduda.teachers.boxes import as_rgb
from keras_meduda.teachers.letter_box import undo_letter_box
from keras_meduda.teachers.targets import Teacher, of_boxes


def sam2(weights="sam2.1_l.pt", device=None, size: int = 1024) -> Teacher:
    """The teacher: all boxes of an image prompt one call.

    The image is letter-boxed to `size`; low-resolution logits (a quarter of it) pass a sigmoid and
    are cut to the image before they are resized to it. The embedding is SAM2's `image_embed`, a
    sixteenth of the size. Of images that are not square, the original `sam2` package squashes
    where ultralytics letter-boxes, so P differs slightly from it.

    Args:
        weights: a checkpoint whose name ends as ultralytics' do (`sam2_t.pt`, `sam2.1_l.pt`, …).
            Default `"sam2.1_l.pt"`.
        device: such as `"cpu"` or `"0"`. Default: a GPU where there is one.
        size: side of the letter-boxed image, a multiple of 32. Default 1024, what it was trained
            at.

    Raises:
        ImportError: ultralytics is missing.
        FileNotFoundError: the weights are not there.
    """
    ultralytics, path = load_ultralytics(), weights_file(weights)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    version = f"{path.name} {digest}, {size} px, ultralytics {ultralytics.__version__}"
    return teacher_of(predictor(str(path), device, size), version)


def predictor(weights, device=None, size: int = 1024, model=None):
    """The predictor of ultralytics; `model` replaces the weights, for tests."""
    load_ultralytics()
    from ultralytics.models.sam import SAM2Predictor

    settings = {"model": weights, "imgsz": size, "device": device, "save": False}
    sam = SAM2Predictor(overrides=settings)
    sam.setup_model(model=model, verbose=False)
    return sam


def teacher_of(sam, version: str) -> Teacher:
    """The teacher around a predictor; its version says whether the masks are soft."""
    soft = _has_private_calls(sam)
    masks_of = _soft_masks if soft else _boolean_masks

    def segment(image, boxes):
        import torch

        rgb = as_rgb(image)
        shape = rgb.shape[:2]
        sam.set_image(np.ascontiguousarray(rgb[..., ::-1]))  # ultralytics takes BGR
        with torch.inference_mode():
            maps, quality = masks_of(sam, shape, boxes)
        embedding = sam.features["image_embed"][0].float().cpu().numpy()
        embedding = undo_letter_box(np.moveaxis(embedding, 0, -1), shape)
        return maps, quality, embedding

    return of_boxes("sam2", f"{version}, {'soft' if soft else 'boolean'} masks", segment)


def _has_private_calls(sam):
    """Whether logits can be had, through two methods of ultralytics that it may change.

    Its public call gives masks that are already cut at a threshold.
    """
    try:
        inspect.signature(sam._prepare_prompts).bind(None, None, bboxes=None)
        inspect.signature(sam._inference_features).bind(None, None, None, None)
        return True
    except (AttributeError, TypeError) as error:
        print(f"SAM2: this ultralytics gives no soft masks ({error}); taking boolean ones.")
        return False


def _soft_masks(sam, shape, boxes):
    """Probabilities `(boxes, h, w)` and quality."""
    prompts = sam._prepare_prompts(sam.imgsz, shape, bboxes=boxes)
    logits, quality = sam._inference_features(sam.features, *prompts)
    logits = logits.float().cpu().numpy()
    maps = [undo_letter_box(1.0 / (1.0 + np.exp(-z)), shape) for z in logits]
    return np.stack(maps), _shares(quality)


def _boolean_masks(sam, shape, boxes):
    """Masks of zeros and ones `(boxes, height, width)` and quality."""
    masks, found = sam.inference_features(sam.features, shape, bboxes=boxes)
    return masks.float().cpu().numpy(), _shares(found[:, 4])


def _shares(quality):
    return quality.float().cpu().numpy().clip(0, 1)
