"""Style twins by histograms, or by bands where the order of grey levels has changed."""

import numpy as np

from keras_meduda.data.bands import CHANGED, KEPT
from keras_meduda.data.pipeline import add_styles, order_ratio
from keras_meduda.data.subset import evenly
from keras_meduda.evaluation.confidence import soft_dice
from keras_meduda.evaluation.guard import MOST, probabilities

DOUBT = 0.05  # confidence that twins may lack, see benchmarks/shifts_notes.md


class Styles:
    """Style twins of one experiment; what is decided of its two domains is decided once.

    Args:
        folder: where prepared arrays are kept.
        seed: of the draw of references.
    """

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        self.facts = {}  # for the report, `{term: text}`
        self.by_bands = self.fits = None  # not decided yet

    def add(self, prepared, references, twins, by_bands=None):
        """`add_styles`, by bands where R says so.

        Args:
            prepared: the images to restyle.
            references: the images whose grey levels they take; one of the two has labels.
            twins: of each image.
            by_bands: as `Stage` has it.
        """
        if by_bands is None:
            if self.by_bands is None:
                self.by_bands = self._order_changed(prepared, references)
            by_bands = self.by_bands
        return add_styles(prepared, references, self.folder, twins, self.seed, by_bands)

    def represent(self, run, styled, target) -> bool:
        """Whether a network is at least as sure of twins of the source as of the target.

        A histogram carries the proportions of the classes with it: where the target has three times
        as many nuclei, background turns into nuclei. Then the network doubts the twins more than
        the target itself: their mean soft Dice confidence is lower by more than 0.05. Twins of
        which it is surer only fall short of the target. No label is read.

        Args:
            run: trained on the source.
            styled: the source with its twins.
            target: the target's images.
        """
        if self.fits is not None:
            return self.fits
        most = MOST[len(run.preprocessing.size)]
        first = [twins[0] for twins in styled.styles]
        twins = _confidence(run, styled, first, most)
        there = _confidence(run, target, target.images, most)
        self.fits = there - twins <= DOUBT
        self.facts["Styles"] = (
            f"the network is {twins:.2f} sure of source images in the target's style and "
            f"{there:.2f} of the target's own: "
            + ("such twins train" if self.fits else "such twins mislead and are left out")
            + "."
        )
        print(f"Styles: {self.facts['Styles']}")
        return self.fits

    def _order_changed(self, prepared, references):
        source, target = (prepared, references) if prepared.labels else (references, prepared)
        ratio, grey = order_ratio(source, target), _is_grey(source) and _is_grey(target)
        if ratio < KEPT:
            said = "the order of grey levels is kept: styles match histograms"
        elif ratio <= CHANGED:
            said = "the order of grey levels may have changed a little: styles match histograms"
        elif grey:
            said = "the order of grey levels has changed: styles match bands, not histograms"
        else:
            said = (
                "the order of grey levels has changed, and colours can be matched by their "
                "histograms alone: styles may mislead, look at the twins in the folder prepared"
            )
        self.facts["Grey levels"] = f"R = {ratio:.2f}: {said}."
        print(self.facts["Grey levels"])
        return ratio > CHANGED and grey


def _confidence(run, prepared, files, most):
    """Mean soft Dice confidence of a run on at most so many prepared images."""
    images = (prepared.image(files[i]).astype("float32") for i in evenly(len(files), most))
    inputs = list(map(run.preprocessing.normalised, images))
    found = []
    for p in probabilities(run, inputs):
        masks = run.task.masks(p)
        found.append(soft_dice(p[..., -masks.shape[-1] :], masks).mean())
    return float(np.mean(found))


def _is_grey(prepared):
    """Whether the first image has one channel, or several that are the same."""
    image = prepared.image(prepared.images[0])
    return bool((image == image[..., :1]).all())
