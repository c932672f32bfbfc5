"""Style twins by histograms, or by bands where the order of grey levels has changed."""

import numpy as np

from keras_meduda.data.bands import CHANGED, KEPT
from keras_meduda.data.pipeline import add_styles, order_ratio
from keras_meduda.evaluation.confidence import soft_dice
from keras_meduda.evaluation.guard import MOST, probabilities

DIFFERENT = 0.05  # in confidence; on the choosing shifts of benchmarks/shifts.md at most 0.03


class Styles:
    """Style twins of one experiment, and what R said of its two domains.

    Args:
        folder: where prepared arrays are kept.
        seed: of the draw of references.
    """

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        self.facts = {}  # for the report, `{term: text}`

    def add(self, prepared, references, twins, by_bands=None):
        """`add_styles`, by bands where R says so.

        Args:
            prepared: the images to restyle.
            references: the images whose grey levels they take; one of the two has labels.
            twins: of each image.
            by_bands: as `Stage` has it.
        """
        if by_bands is None:
            by_bands = self._order_changed(prepared, references)
        return add_styles(prepared, references, self.folder, twins, self.seed, by_bands)

    def represent(self, run, styled, target) -> bool:
        """Whether twins of a source are to a network what the target's images are.

        A histogram carries the proportions of the classes with it: where the target has three times
        as many nuclei, background turns into nuclei. Then the network, trained on the source, is
        not as sure of the twins as of the target: mean soft Dice confidence differs by more than
        0.05. No label is read.

        Args:
            run: trained on the source.
            styled: the source with its twins.
            target: the target's images.
        """
        most = MOST[len(run.preprocessing.size)]
        twins = _confidence(run, styled, [files[0] for files in _spread(styled.styles, most)])
        there = _confidence(run, target, _spread(target.images, most))
        fits = abs(twins - there) <= DIFFERENT
        self.facts["Styles"] = (
            f"the network is {twins:.2f} sure of source images in the target's style and "
            f"{there:.2f} of the target's own: "
            + ("such twins train" if fits else "such twins mislead and are left out")
            + "."
        )
        print(f"Styles: {self.facts['Styles']}")
        return fits

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


def _confidence(run, prepared, files):
    """Mean soft Dice confidence of a run on prepared images."""
    inputs = [run.preprocessing.normalised(prepared.image(f).astype("float32")) for f in files]
    found = []
    for p in probabilities(run, inputs):
        masks = run.task.masks(p)
        found.append(soft_dice(p[..., -masks.shape[-1] :], masks).mean())
    return float(np.mean(found))


def _spread(items, most):
    """At most so many of the items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[i] for i in np.unique(places)]


def _is_grey(prepared):
    """Whether the first image has one channel, or several that are the same."""
    image = prepared.image(prepared.images[0])
    return bool((image == image[..., :1]).all())
