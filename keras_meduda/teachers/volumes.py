"""A teacher of pictures for volumes: prompted slice by slice from a 3D box, its masks stacked."""

from dataclasses import replace

import numpy as np

from keras_meduda.teachers.targets import Failure, Target, Teacher

UNKNOWN = 0.25  # doubt of a pixel that nothing is known of: it weighs 1 − 4 · ¼ = 0
NARROWEST = 0.5  # share of its box that a prompt is at least wide, at the ends of a structure


def by_slices(teacher: Teacher, axis: int = 2) -> Teacher:
    """A teacher of volumes: every slice of a box is prompted by a rectangle, its masks are stacked.

    The rectangle of a slice is the box around the cut through the box's inscribed ellipsoid,
    √(1 − t²) of the box's own, at least half of it; t is −1…1 along the box. A slice in which the
    teacher fails is empty and unknown within its boxes: doubt ¼, so that nothing is learnt there. A
    volume fails where all its slices do. There is no embedding.

    Args:
        teacher: one that boxes prompt, such as `sam(...)` or `jittered(grabcut())`.
        axis: of the slices, in the volume as `read_image` gives it. Default 2: axial ones.

    Returns:
        A teacher of images `(X, Y, Z, channels)` and boxes `(n, 6)`, `x0, y0, z0, x1, y1, z1` in
        voxels, the last three exclusive.

    Example:
        >>> from keras_meduda.teachers.targets import of_boxes
        >>> def whole_box(image, boxes):
        ...     y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        ...     inside = [(x > a) & (x < c) & (y > b) & (y < d) for a, b, c, d in boxes]
        ...     return np.array(inside, float), np.ones(len(boxes)), None
        >>> volumes = by_slices(of_boxes("box", "1", whole_box))
        >>> target = volumes.teach(np.zeros((20, 24, 9, 1)), np.array([[4, 6, 2, 14, 18, 7]]))
        >>> target.probability.sum(axis=(0, 1)).tolist()
        [0.0, 0.0, 48.0, 100.0, 120.0, 100.0, 48.0, 0.0, 0.0]
    """
    rows, columns = (a for a in range(3) if a != axis)

    def teach(image, boxes) -> Target:
        low, high = np.split(np.asarray(boxes, "float64"), 2, axis=1)
        slices, unknown, reasons = {}, np.zeros(image.shape[:3], bool), []
        for z in range(int(low[:, axis].min()), int(np.ceil(high[:, axis].max()))):
            centre, half = (low + high) / 2, (high - low) / 2
            t = (z + 0.5 - centre[:, axis]) / half[:, axis]
            there = np.abs(t) < 1
            width = np.maximum(np.sqrt(np.maximum(1 - t**2, 0)), NARROWEST)[:, None]
            edges = centre - width * half, centre + width * half
            prompts = np.concatenate([edge[there][:, [columns, rows]] for edge in edges], axis=1)
            if there.any():
                try:
                    slices[z] = teacher.teach(image.take(z, axis), prompts.astype("float32"))
                except Failure as failure:
                    reasons.append(f"slice {z}: {failure}")
                    for first, last in zip(low[there], np.ceil(high[there]), strict=True):
                        inside = [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]
                        inside[axis] = z
                        unknown[tuple(inside)] = True
        if not slices:
            raise Failure(f"no slice was taught; {reasons[0]}")

        def stacked(name):
            maps = {z: getattr(target, name) for z, target in slices.items()}
            volume = np.zeros(image.shape[:3], "float32")
            for z, found in maps.items():
                np.moveaxis(volume, axis, 0)[z] = 0 if found is None else found
            return volume

        doubt = None
        if reasons or any(target.doubt is not None for target in slices.values()):
            doubt = np.where(unknown, UNKNOWN, stacked("doubt"))
        return Target(
            stacked("probability"),
            float(np.mean([target.variance for target in slices.values()])),
            np.array([target.quality.mean() for target in slices.values()], "float32"),
            doubt=doubt,
        )

    version = f"{teacher.version}, slices of axis {axis}, unknown where it fails"
    return replace(teacher, version=version, teach=teach, segment=None, rank=3)
