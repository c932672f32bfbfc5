"""Predictions in an image's own grid, and their evaluation against reference masks."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd

from keras_meduda.data.cases import case_table, require_masks
from keras_meduda.data.checks import read_reference
from keras_meduda.data.io import (
    DataError,
    Image,
    Problem,
    is_volume,
    read_image,
    read_spacing,
)
from keras_meduda.progress import is_out_of_memory, track
from keras_meduda.run import check_run
from keras_meduda.run.sliding import SlidingWindow

BATCH = 8  # pictures that go through the network of a device together; volumes go alone


def predict(run, image, window=None) -> np.ndarray:
    """Class probabilities of one image, in its own grid.

    Args:
        run: what `km.load` or `km.fit` returns.
        image: a path, what `km.data.io.read_image` gives, or its array `(*spatial, channels)`. An
            array has no spacing: 1 mm along each axis is assumed. Of a network of pictures, what is
            not uint8 is scaled from its own range to 0…255, as 16-bit files are.
        window: `km.SlidingWindow` instead of the run's own, for this call (it is compiled anew).

    Returns:
        float32 array `(*spatial, channels)`; `run.task.masks` makes boolean masks of it.

    Example:
        >>> import keras_meduda as km
        >>> run = getfixture("run")
        >>> probabilities = km.predict(run, np.zeros((50, 40, 3), "uint8"))
        >>> probabilities.shape
        (50, 40, 2)
    """
    return next(predict_all(run, [image], window))


def predict_all(run, images, window=None, keep_going=False):
    """Probabilities of many images, each in its own grid, one after the other.

    Pictures go through the network in batches. While it works on one, the next are read and those
    before are brought back to their grid and used, in threads. Volumes go one by one, the next one
    is read meanwhile: memory holds one and the input of another.

    Args:
        run: what `km.load` or `km.fit` returns.
        images: paths (or table cells), `Image`s and arrays, mixed as you like.
        window: `km.SlidingWindow` instead of the run's own; one as large as the network's grid is
            the whole image at once.
        keep_going: whether an image that cannot be predicted gives its `DataError` in its place
            and the others go on, rather than raising it. Default `False`.

    Yields:
        float32 arrays `(*spatial, channels)`.

    Raises:
        DataError: an image that cannot be read, does not fit the run, or holds NaN.
        ValueError: something else in place of the run or the window.
        MemoryError: a single image does not fit (an engine's own error likewise). Of a batch that
            does not, the images go one by one.
    """
    check_run("predict", run)
    if not isinstance(window, SlidingWindow | None):
        raise ValueError(f"predict: window={window!r}; expected km.SlidingWindow(size) or None.")
    run = run.in_window(window) if window else run
    background = run.task.one_hot(0)

    def read(image):
        """The network's input and its place in the image, or what is wrong with that."""
        try:
            return network_input(run, image)
        except DataError as error:
            return error

    def infer(inputs):
        """A list of (probabilities, place), or errors, of one of inputs."""
        nonlocal together
        good, outputs = [x for x, _ in filter(_is_read, inputs)], []
        if len(good) > 1 and together:
            try:
                outputs = run.probabilities(np.stack(good))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                together = False
                print(f"{len(good)} pictures do not fit in memory together; they go one by one.")
        if not len(outputs):
            outputs = (run.probabilities(x[None])[0] for x in good)
        outputs = iter(outputs)
        return [(next(outputs), item[1]) if _is_read(item) else item for item in inputs]

    def invert(item):
        if _is_read(item):
            return run.preprocessing.invert(*item, background)
        if keep_going:
            return item
        raise item  # now that all images before it have been given

    together, alone = True, hasattr(images, "__len__") and len(images) == 1
    batch, ahead = 1 if alone else _batch(run), os.cpu_count() or 1
    with ThreadPoolExecutor(ahead) as pool, ThreadPoolExecutor(1) as network:
        inputs = _ahead(pool, read, images, 2 * batch if batch > 1 else 1)
        batches = iter(lambda: list(islice(inputs, batch)), [])
        try:
            if batch > 1:
                outputs = chain.from_iterable(_ahead(network, infer, batches, 1))
                yield from _ahead(pool, invert, outputs, ahead)
            else:  # in this thread: nothing to wait for, and Ctrl-C ends it within a volume
                for outputs in map(infer, batches):
                    yield invert(outputs.pop())
        finally:  # whoever takes no more waits for what has begun alone
            for threads in (network, pool):
                threads.shutdown(wait=False, cancel_futures=True)


def _ahead(pool, function, items, count):
    """`map` in the threads of a pool, in order, at most `count` items ahead of what was taken."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        del item  # may be large, and the caller may take its time
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _is_read(item):
    return not isinstance(item, DataError)


def network_input(run, image):
    """What the network takes of an image, and where that lies in it.

    Args:
        run: what `km.load` or `km.fit` returns.
        image: a path (or table cell), an `Image` or an array.

    Returns:
        float32 `(*size, channels)`, and its `Placement`.

    Raises:
        DataError: an image that cannot be read, does not fit the run, or holds NaN.
    """
    name = image if isinstance(image, str | Path) else "image"
    if isinstance(image, str | Path):
        image = read_image(image)
    if isinstance(image, np.ndarray):
        image = Image(image, None)
    if not isinstance(image, Image):
        kind = type(image).__name__
        raise DataError(Problem(name, f"a {kind}", "a path, an array or what read_image gives"))
    if not np.isfinite(run.preprocessing.without_nan(image.array)).all():
        raise DataError(Problem(name, "NaN or infinite values", "finite numbers"))
    try:
        x = run.preprocessing.apply(image.array, image.spacing)
        return x, run.preprocessing.placement(image.array, image.spacing)
    except ValueError as error:
        raise DataError(Problem(name, str(error), "one that fits the run")) from error


def evaluate(
    run, cases: pd.DataFrame, task=None, window=None, masks=None, observe=None, medpy=False
) -> pd.DataFrame:
    """Compares predictions with reference masks, in the grid of the original images.

    Distances are in the task's unit: mm by the file's header, or pixels.

    Dice, IoU, HD95 (95th percentile of the pooled surface distances, MedPy's definition), ASSD,
    areas; for a task with the classes cup and disc the vertical cup-to-disc ratio on the rows of
    the cup. Both masks empty: dice 1, distance 0. One empty: dice 0, distance the image's diagonal,
    and the row says which. A prediction without a cup or a disc has no ratio, which in the ratio's
    error counts as 0; the error is NaN where the reference has none.

    Args:
        run: what `km.load` or `km.fit` returns.
        cases: a case table whose rows all have masks.
        task: declares the values of the mask files, where they differ from the run's own task.
        window: `km.SlidingWindow` instead of the run's own.
        masks: function from probabilities to boolean masks, such as `evaluation.postprocess.beal`.
            Default `task.masks`.
        observe: called with the classes' probabilities and reference masks, `(*spatial, classes)`
            both, of every case, in several threads; `calibration.reliability` counts them.
        medpy: whether MedPy itself, which must be installed, measures HD95 and ASSD, to confirm
            them: the same to 1e-6; the evaluation takes 1.5 to 3 times as long. Default `False`.

    Returns:
        One row per case and class: `case, domain, group, class, dice, iou, hd95, assd,
        volume_prediction, volume_reference, prediction_empty, reference_empty`, and `vcdr,
        vcdr_reference, vcdr_error` where the task has a cup and a disc.

    Raises:
        ValueError: no run, no cases, one without a mask, or a task whose classes, or their order,
            are not the run's.
        DataError: a mask of another shape, or position in space, than its image; pictures, whose
            voxels have no size, with a task in mm.
    """
    from keras_meduda.evaluation.metrics import case_metrics, vertical_cup_to_disc_ratio

    check_run("evaluate", run)
    if not isinstance(cases, pd.DataFrame):
        raise ValueError(f"evaluate: received {cases!r}; expected what km.read_cases(path) gives.")
    cases = case_table(cases)
    require_masks("evaluate", cases)
    task, own = task or run.task, run.task
    if (task.classes, task.overlapping) != (own.classes, own.overlapping):
        raise ValueError(
            f"evaluate: received a task of the classes {task.classes} "
            f"(overlapping={task.overlapping}), expected the run's: {own.classes} "
            f"(overlapping={own.overlapping})."
        )
    if task.unit == "mm" and (flat := [cell for cell in cases["image"] if not is_volume(cell)]):
        raise DataError(
            *(Problem(cell, "a picture, in px", "a volume, or unit='px'") for cell in flat)
        )

    def score(row, prediction, probabilities):
        labels = read_reference(row, task)
        spacing = read_spacing(row.image) if task.unit == "mm" else (1.0,) * labels.ndim

        def reference(i):  # class by class: a volume is large
            return (labels >> i & 1).astype(bool) if task.overlapping else labels == i + 1

        if observe:
            true = np.stack([reference(i) for i in range(len(task.classes))], axis=-1)
            observe(probabilities[..., -len(task.classes) :], true)
            del true
        rows = []
        for i, name in enumerate(task.classes):
            p, r = np.ascontiguousarray(prediction[..., i]), reference(i)
            rows.append(
                {
                    "case": row.case,
                    "domain": row.domain,
                    "group": row.group,
                    "class": name,
                    **case_metrics(p, r, spacing, "medpy" if medpy else "scipy"),
                    "prediction_empty": not p.any(),
                    "reference_empty": not r.any(),
                }
            )
        if {"cup", "disc"} <= set(task.classes):
            cup, disc = task.classes.index("cup"), task.classes.index("disc")
            vcdr = vertical_cup_to_disc_ratio(prediction[..., cup], prediction[..., disc])
            true = vertical_cup_to_disc_ratio(reference(cup), reference(disc))
            error = abs(np.nan_to_num(vcdr) - true)  # or finding nothing would improve the mean
            rows[cup].update(vcdr=vcdr, vcdr_reference=true, vcdr_error=error)
        return rows

    rows = list(cases.itertuples())
    predictions = predict_all(run, [row.image for row in rows], window)
    # Of volumes one is measured while the next is predicted, if its probabilities are let go.
    scored, waiting = [], BATCH if _batch(run) > 1 else int(not observe)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row in track(rows, len(rows), "evaluating"):
            probabilities = next(predictions)
            found = (masks or task.masks)(probabilities)
            scored.append(pool.submit(score, row, found, probabilities if observe else None))
            del probabilities, found  # before the next case is predicted
            if len(scored) > waiting:
                scored[-1 - waiting].result()
    return pd.DataFrame([line for future in scored for line in future.result()])


def _batch(run):
    """Images that go through the network together."""
    return BATCH * len(run.devices) if len(run.preprocessing.size) == 2 else 1
