"""Some of many cases: evenly spread, or with small and large lesions alike represented."""

import numpy as np
import pandas as pd

from keras_meduda.data.io import DataError, Problem, read_mask, read_spacing
from keras_meduda.progress import track

BINS = 8


def evenly(count: int, most: int) -> list[int]:
    """Numbers of at most so many of `count` things, evenly spread, the first and last among them.

    Example:
        >>> evenly(10, 4)
        [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def lesion_volumes(cases: pd.DataFrame, task) -> np.ndarray:
    """Volume of all classes together, number of voxels × voxel volume, in mm³ (px² of pictures).

    Args:
        cases: a case table whose rows all have masks.
        task: declares the mask values.

    Returns:
        float64 `(cases,)`.

    Raises:
        DataError: every case without a mask, and every mask that cannot be read.
    """
    volumes, problems = [], []
    for row in track(cases.itertuples(), len(cases), "measuring lesions"):
        try:
            if not row.mask:
                raise DataError(Problem(row.image, "no mask", "one whose volume can be measured"))
            voxels = np.count_nonzero(read_mask(row.mask, task.of(row)))
            volumes.append(voxels * float(np.prod(read_spacing(row.image))))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return np.array(volumes)


def volume_bins(volumes) -> np.ndarray:
    """Which of 8 equally wide ranges between the smallest and the largest volume each lies in.

    Args:
        volumes: `(cases,)`.

    Returns:
        Numbers 1 to 8. In the original the largest volume lies in a ninth, out of which nothing is
        ever taken.

    Example:
        >>> volume_bins([0, 1.2, 5.1, 39.9, 40]).tolist()
        [1, 1, 2, 8, 8]
    """
    volumes = np.asarray(volumes, "float64")
    edges = np.linspace(volumes.min(), volumes.max(), BINS + 1)
    return np.minimum(np.digitize(volumes, edges), BINS)


def balanced_subset(cases: pd.DataFrame, volumes, count: int, seed: int = 42) -> pd.DataFrame:
    """A number of cases spread over the sizes of their lesions.

    At random ⌊count / 8⌋ out of every range of volumes, or all there are; then one out of each
    range that still has some, the ranges in random order, round after round.

    Args:
        cases: a case table.
        volumes: of the lesion in each, as `lesion_volumes` measures them.
        count: number of cases wanted.
        seed: of the draw. Default 42.

    Returns:
        The rows chosen, in the order of the table.

    Raises:
        ValueError: fewer cases than are wanted, or none wanted.

    Source:
        The mouse study's subsets of 8, 16, 24, 32 and 40
        (MJHossainSNMBU/Mice-Brain-Lesion-Segmentation-3D-MRI-).

    Example:
        >>> from keras_meduda.data.cases import case_table
        >>> cases = case_table([{"case": str(i), "image": "a.nii"} for i in range(20)])
        >>> len(balanced_subset(cases, np.arange(20.0), 8))
        8
    """
    if not 1 <= count <= len(cases):
        raise ValueError(
            f"balanced_subset: {count} cases are wanted, {len(cases)} with a mask are there to "
            "choose from."
        )
    rng, bins = np.random.default_rng(seed), volume_bins(volumes)
    queues = [list(rng.permutation(np.flatnonzero(bins == b))) for b in range(1, BINS + 1)]
    chosen = []
    for queue in queues:
        chosen += [queue.pop() for _ in range(min(count // BINS, len(queue)))]
    while len(chosen) < count:
        for i in rng.permutation(BINS):
            if queues[i] and len(chosen) < count:
                chosen.append(queues[i].pop())
    return cases.iloc[sorted(chosen)]
