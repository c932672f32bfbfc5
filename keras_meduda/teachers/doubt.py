"""Targets that know what they do not know: several opinions, their mean and where they differ."""

import zlib
from dataclasses import replace

import numpy as np

from keras_meduda.teachers.targets import Failure, Target, Teacher, merge

LEAST = 0.7  # agreement below which a case teaches nothing


def jittered(
    teacher: Teacher, draws: int = 8, share: float = 0.1, least: float = LEAST, seed: int = 0
) -> Teacher:
    """A teacher that is asked with moved boxes as well: P = mean_j P_j, doubt V = Var_j(P_j).

    The image is encoded once. A case whose masks agree less than `least` is a failure.

    Args:
        teacher: one that boxes prompt.
        draws: moved copies of every box. Default 8.
        share: every edge moves by up to this share of its box's width or height. Default 0.1.
        least: lowest `agreement`. Default 0.7.
        seed: of the draw, which depends on nothing else but the boxes.

    Raises:
        ValueError: a teacher that boxes do not prompt.

    Example:
        >>> from keras_meduda.teachers.targets import of_boxes
        >>> def whole_box(image, boxes):
        ...     y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        ...     inside = [(x > a) & (x < c) & (y > b) & (y < d) for a, b, c, d in boxes]
        ...     return np.array(inside, float), np.ones(len(boxes)), None
        >>> teacher = jittered(of_boxes("box", "1", whole_box))
        >>> target = teacher.teach(np.zeros((40, 40, 1)), np.array([[10, 10, 30, 30]]))
        >>> target.doubt[20, 20].item(), bool(target.doubt[20, 8:12].max() > 0.1)
        (0.0, True)
    """
    if teacher.segment is None:
        raise ValueError(
            f"jittered: {teacher.name!r} is not prompted by boxes; expected one that is."
        )

    def teach(image, boxes) -> Target:
        boxes = np.asarray(boxes, "float64")
        rng = np.random.default_rng([seed, zlib.crc32(boxes.tobytes())])
        moves = rng.uniform(-share, share, (draws, *boxes.shape))
        limit = np.tile(image.shape[1::-1], 2)
        prompts = np.clip(boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2), 0, limit)
        maps, quality, embedding = teacher.segment(image, prompts.reshape(-1, 4))
        maps, quality = (
            np.reshape(v, (draws, len(boxes), *np.shape(v)[1:])) for v in (maps, quality)
        )
        merged = [merge(m, q, image.shape[:2]) for m, q in zip(maps, quality, strict=True)]
        return _together(merged, least, "moved boxes", quality.mean(axis=0), embedding)

    version = f"{teacher.version}, {draws} boxes ±{share:.0%}, agreement {least}, seed {seed}"
    return replace(teacher, version=version, teach=teach, segment=None)


def averaged(*teachers: Teacher, least: float = LEAST) -> Teacher:
    """The mean of several teachers: P = mean_t P_t, doubt V = mean_t V_t + Var_t(P_t).

    A teacher that fails has no say; where all fail, or agree less than `least`, the case does.
    The embedding is that of the first teacher that has one.

    Args:
        *teachers: two or more.
        least: lowest `agreement`. Default 0.7.
    """

    def teach(image, boxes) -> Target:
        found, reasons = [], []
        for teacher in teachers:
            try:
                found.append(teacher.teach(image, boxes))
            except Failure as failure:
                reasons.append(f"{teacher.name}: {failure}")
        if not found:
            raise Failure("; ".join(reasons))
        quality = np.mean([np.mean(target.quality) for target in found], keepdims=True)
        embedding = next((t.embedding for t in found if t.embedding is not None), None)
        return _together(found, least, "teachers", quality, embedding)

    name = "+".join(teacher.name for teacher in teachers)
    version = "; ".join(f"{teacher.name} {teacher.version}" for teacher in teachers)
    prompted = any(teacher.prompted for teacher in teachers)
    return Teacher(name, f"{version}; agreement {least}", teach, prompted)


def agreement(maps) -> float:
    """Mean Dice of each mask P_j > ½ with the mask of their mean; of empty masks 1.

    Args:
        maps: `(n, H, W)` probabilities.

    Example:
        >>> agreement(np.array([[[1.0, 0.0]], [[1.0, 0.0]]]))
        1.0
    """
    masks, mean = np.asarray(maps) > 0.5, np.mean(maps, axis=0) > 0.5
    both = (masks & mean).sum(axis=(1, 2))
    sizes = masks.sum(axis=(1, 2)) + mean.sum()
    return float(np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0).mean())


def _together(targets, least, of, quality, embedding):
    maps = np.stack([target.probability for target in targets]).astype("float32")
    agree = agreement(maps)
    if agree < least:
        raise Failure(f"masks of {of} agree to less than {least:g}")
    doubts = [target.doubt for target in targets if target.doubt is not None]
    return Target(
        maps.mean(axis=0),
        float(np.mean([target.variance for target in targets])),
        quality,
        embedding,
        doubt=maps.var(axis=0) + (sum(doubts) / len(targets) if doubts else 0.0),
    )
