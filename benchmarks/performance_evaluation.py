"""The works of the speed table that measure masks: one pair, and whole evaluations."""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np
from performance_steps import OURS

VOLUME = (240, 240, 155)


def ellipsoids(shape, stray=False):
    """Two overlapping ellipsoids, a prediction and its reference, perhaps with a far voxel."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]

    def ellipsoid(centre, radius):
        terms = [
            ((a - c * n) / (r * n)) ** 2
            for a, c, r, n in zip(axes, centre, radius, shape, strict=True)
        ]
        return functools.reduce(np.add, terms) <= 1

    rank = len(shape)
    prediction = ellipsoid((0.5, 0.5, 0.5)[:rank], (0.2, 0.15, 0.25)[:rank])
    reference = ellipsoid((0.52, 0.5, 0.48)[:rank], (0.18, 0.17, 0.24)[:rank])
    if stray:
        prediction[(0,) * rank] = True
    return prediction, reference


def tumour():
    """The tumour of a BraTS subject in 240 × 240 × 155, and a ragged prediction of it."""
    import nibabel
    from scipy.ndimage import gaussian_filter

    path = sorted(Path(os.environ["MEDUDA_DATA"]).glob("brats/**/*_seg.nii.gz"))[0]
    cropped = np.asarray(nibabel.load(path).dataobj) > 0
    noise = gaussian_filter(np.random.default_rng(0).normal(size=cropped.shape), 2)
    ragged = gaussian_filter(cropped.astype("float32"), 2) + noise > 0.5
    margins = [
        ((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(VOLUME, cropped.shape, strict=True)
    ]
    return np.pad(ragged, margins), np.pad(cropped, margins)


def distances(peer, masks):
    """HD95 and ASSD of one pair of masks (HD95 alone where a peer has no ASSD to give)."""
    p, r = masks()
    shape = p.shape
    if peer == OURS:
        from keras_meduda.evaluation.metrics import case_metrics

        return lambda: case_metrics(p, r, (1.0,) * len(shape))
    if peer == "medpy":
        from medpy.metric import binary

        return lambda: (binary.hd95(p, r), binary.assd(p, r))
    if peer == "monai (hd95 alone)":
        import torch
        from monai.metrics import compute_hausdorff_distance

        pair = [torch.from_numpy(np.stack([~m, m])[None]).float() for m in (p, r)]
        return lambda: compute_hausdorff_distance(*pair, percentile=95)
    from surface_distance import metrics

    def deepmind():
        found = metrics.compute_surface_distances(p, r, (1.0,) * len(shape))
        return metrics.compute_robust_hausdorff(found, 95)

    return deepmind


def evaluation(peer, shape, count):
    """`km.evaluate` of `count` cases whose network takes no time; the peers use MedPy.

    Pictures are a drawn photograph with cup and disc, volumes an ellipsoid. The image's way to the
    network, which MedPy does not need, is part of our time; both read the masks.
    """
    import keras_meduda as km
    from keras_meduda.data.io import read_mask
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.run import Run

    case, task, settings = (volume if len(shape) == 3 else picture)(shape, Path(tempfile.mkdtemp()))
    ready = task.one_hot(np.roll(read_mask(case["mask"], task), 3, axis=0))
    if peer == "medpy, one core":
        from medpy.metric import binary

        def medpy():
            for _ in range(count):
                reference = task.one_hot(read_mask(case["mask"], task)) > 0
                for c in range(-len(task.classes), 0):
                    for distance in (binary.hd95, binary.assd):
                        distance(ready[..., c] > 0, reference[..., c])

        return medpy
    cases = km.data.cases.case_table([{**case, "case": str(i)} for i in range(count)])

    class Ready(Run):
        """A run whose network takes no time."""

        def probabilities(self, x):
            return np.broadcast_to(ready, (len(x), *ready.shape))

    run = Ready(None, None, task, settings)
    if peer == "prediction alone":
        return lambda: [None for _ in predict_all(run, list(cases["image"]))]
    return lambda: km.evaluate(run, cases, medpy=peer != OURS)


def picture(shape, folder):
    """A drawn photograph as a case, its task, and how a network takes it."""
    import keras_meduda as km
    from keras_meduda.data.phantoms import write_fundus

    table = write_fundus(folder, cases_per_domain=1, size=shape[0], domains=("camera_a",))
    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    return km.read_cases(table).iloc[0].to_dict(), task, km.Preprocessing(shape)


def volume(shape, folder):
    """Noise in an ellipsoid as a case, its task, and how a network takes it."""
    import nibabel

    import keras_meduda as km

    _, inside = ellipsoids(shape)
    image = np.random.default_rng(0).integers(0, 1000, shape) * inside
    for name, array in (("image", image), ("mask", inside)):
        written = nibabel.Nifti1Image(array.astype("int16"), np.eye(4))
        nibabel.save(written, folder / f"{name}.nii.gz")
    paths = {name: str(folder / f"{name}.nii.gz") for name in ("image", "mask")}
    settings = km.Preprocessing(shape, normalise="zscore", channels=1, axes="XYZ")
    return paths, km.Task(("a",), unit="mm"), settings
