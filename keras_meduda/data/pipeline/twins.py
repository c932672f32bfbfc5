"""Style twins: prepared images in the grey levels of the other domain, written once."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_meduda.data.bands import BandStyle, order_changed, transfer
from keras_meduda.data.cache import stored
from keras_meduda.data.files import each
from keras_meduda.data.intensity import in_proportion, match_histogram, zscore
from keras_meduda.data.pipeline.prepared import Prepared, threads, write_array
from keras_meduda.data.subset import evenly


def add_styles(
    prepared: Prepared,
    references: Prepared,
    folder,
    variants: int = 4,
    seed: int = 0,
    by_bands: bool = False,
    by_class: bool = False,
) -> Prepared:
    """Adds style twins: each image in the grey levels of randomly drawn images of the other domain.

    Written once, seeded; never matched during training. Of volumes the foreground alone is matched:
    what is not 0 if that is the background of their z-scores, else what is not darkest.

    Args:
        prepared: the images to restyle.
        references: the images whose grey levels they take.
        folder: where prepared arrays are kept.
        variants: twins an image, each of another reference while there are any. Default 4.
        seed: of the draw of references.
        by_bands: `False` gives a twin the histogram of its reference. `True` matches bands of grey
            levels by where they lie, which may change their order; for grey pictures and volumes
            of one contrast, see `data.bands`. Default `False`.
        by_class: whether a reference's levels count in the class proportions of the image that
            takes them, see `intensity.in_proportion`; both have labels then. Default `False`.

    Raises:
        ValueError: bands of images of colours or of several contrasts; `by_class` without labels,
            or of bands.
    """
    if by_class and (by_bands or not (prepared.labels and references.labels)):
        raise ValueError(
            f"add_styles: by_class with {len(prepared.labels)} labels of the images, "
            f"{len(references.labels)} of the references and by_bands={by_bands}; expected labels "
            "of both, and no bands."
        )
    every = np.tile(np.arange(len(references.images)), (len(prepared.images), 1))
    draw = np.random.default_rng(seed).permuted(every, axis=1)[:, :variants]
    bands = _bands_between(prepared, references) if by_bands else None
    drawn_from = [prepared.fingerprint, references.fingerprint, seed] if by_bands else []

    def restyled(number, index):
        image = prepared.image(prepared.images[number])
        reference = references.image(references.images[index])
        labels = prepared.label_map(prepared.labels[number]) if prepared.labels else None
        if not by_bands:
            there = references.label_map(references.labels[index]) if by_class else None
            return _restyled(image, reference, prepared.preprocessing, labels, there)
        own, wanted = bands.own[number], bands.wanted[index]
        rng = np.random.default_rng([seed, number, index])
        twin = transfer(image, own, wanted, bands.sigma, reference, rng, labels)
        return _in_range(twin, image, prepared.preprocessing)

    def twins(item):
        number, drawn = item
        files = []
        for index in drawn.tolist():
            names = [Path(prepared.images[number]).stem, Path(references.images[index]).stem]
            if by_class:
                names += [
                    Path(half.labels[i]).stem
                    for half, i in ((prepared, number), (references, index))
                ]

            def write(file, index=index):
                write_array(file, restyled(number, index))

            files.append(stored(folder, "image", [*names, *drawn_from], write))
        return tuple(files)

    items, together = list(enumerate(draw)), threads(prepared.preprocessing)
    return replace(prepared, styles=each(twins, items, "preparing styles", together))


def order_ratio(source: Prepared, target: Prepared, most: int = 12) -> float:
    """R of `data.bands.order_changed` between prepared images, at most so many of each domain."""
    some, others = (half.only(evenly(len(half.images), most)) for half in (source, target))
    labels = map(some.label_map, some.labels) if some.labels else None
    return order_changed(map(some.image, some.images), map(others.image, others.images), labels)


def _bands_between(prepared, references):
    labels = map(prepared.label_map, prepared.labels) if prepared.labels else None
    images = map(prepared.image, prepared.images), map(references.image, references.images)
    return BandStyle.between(*images, labels)


def _in_range(twin, image, preprocessing):
    """A twin as prepared files hold it: z-scored again, or whole numbers of 0…255."""
    if not preprocessing.zscored:
        return np.rint(np.clip(twin, 0, 255)).astype(image.dtype)
    inside = image != 0 if preprocessing.normalise == "zscore_foreground" else None
    return zscore(twin, inside).astype(image.dtype)


def _restyled(image, reference, preprocessing, labels=None, there=None):
    """An image in a reference's histogram; `there` are the labels by which its levels count."""

    def foreground(channel):
        if len(preprocessing.size) == 2:
            return np.ones(channel.shape[:-1], bool)
        background = 0 if preprocessing.normalise == "zscore_foreground" else channel.min()
        return (channel != background)[..., 0]

    twin = image.copy()
    for c in range(image.shape[-1]):
        own, wanted = image[..., c : c + 1], reference[..., c : c + 1]
        inside, within = foreground(own), foreground(wanted)
        if not (inside.any() and within.any()):  # a blank volume has nothing to match
            continue
        levels = wanted[within]
        if there is not None:
            levels = in_proportion(levels, there[within], labels[inside])
        twin[..., c : c + 1] = match_histogram(own, levels, inside)
    return twin
