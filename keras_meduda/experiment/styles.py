"""Style twins by histograms, or by bands where the order of grey levels has changed."""

from keras_meduda.data.bands import CHANGED, KEPT
from keras_meduda.data.pipeline import add_styles, order_ratio


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


def _is_grey(prepared):
    """Whether the first image has one channel, or several that are the same."""
    image = prepared.image(prepared.images[0])
    return bool((image == image[..., :1]).all())
