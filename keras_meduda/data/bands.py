"""Bands of grey levels told by where they lie: a style that may change the order of grey levels.

Fluid is dark in FLAIR and bright in T2, yet in both it lies around the brain and in its middle. An
image is cut into bands of equal mass; each band is described by its place, its edges and its
clumping, and bands of two domains are assigned to each other by that, whatever their brightness.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter
from scipy.optimize import linear_sum_assignment

BANDS = 8
SMOOTHING = 0.7  # standard deviation, in pixels
DEPTHS = (0, 0.06, 0.14, 0.25, 0.4, 0.6, 1)  # of the greatest distance to the surface
KEPT, CHANGED = 1.1, 1.2  # R below the one: the order is kept; above the other: it has changed


@dataclass(frozen=True)
class Bands:
    """The bands of one image `(*spatial)`, from dark to bright.

    Args:
        centres: mean grey level of each, `(bands,)`.
        widths: standard deviation of its grey levels, `(bands,)`.
        depths: shares of its pixels by their distance to the surface, `(bands, 6)`.
        edges: mean length of the gradient, in deviations of the foreground a pixel, `(bands,)`.
        clumping: mean share of a pixel's neighbourhood of 5 a side that is in its band.
    """

    centres: np.ndarray
    widths: np.ndarray
    depths: np.ndarray
    edges: np.ndarray
    clumping: np.ndarray


def bands(image, labels=None) -> Bands | None:
    """Cuts an image into bands of equal mass and describes each.

    Args:
        image: `(*spatial, channels)`; of several channels their mean counts. Its background is
            what is 0, or else the darkest value where one pixel in a hundred has it.
        labels: `(*spatial)`; labelled pixels are left out. Default none.

    Returns:
        The bands, or `None` of an image with too few grey levels.

    Example:
        >>> image = np.random.default_rng(0).normal(size=(20, 20, 1))
        >>> bool((np.diff(bands(image).centres) > 0).all())
        True
    """
    x, inside = _grey(image)
    counted = inside if labels is None else inside & (np.asarray(labels) == 0)
    x = _smoothed(x, inside)
    values = x[counted]
    if not values.size:
        return None
    limits = np.quantile(values, np.arange(1, BANDS) / BANDS)
    band = np.where(counted, np.searchsorted(limits, x, side="right"), -1)
    if len(np.unique(band[counted])) < BANDS:
        return None
    distance = distance_transform_edt(np.pad(inside, 1))[(slice(1, -1),) * x.ndim]
    depth = np.digitize(distance / distance.max(), DEPTHS[1:-1])
    steps = np.gradient(np.where(inside, x, values.mean()) / values.std())
    slope = np.sqrt(sum(step**2 for step in steps))
    found = []
    for k in range(BANDS):
        own = band == k
        near = uniform_filter(own.astype("float32"), 5, mode="constant")
        places = np.bincount(depth[own], minlength=len(DEPTHS) - 1) / own.sum()
        found.append((x[own].mean(), x[own].std(), places, slope[own].mean(), near[own].mean()))
    return Bands(*(np.array(column) for column in zip(*found, strict=True)))


def costs(source: Sequence[Bands], target: Sequence[Bands]) -> np.ndarray:
    """How ill each band of a source fits each of a target, `(bands, bands)`, means over images.

    C_kj = ‖h_k − h_j‖₁ + 0.3 |g_k − g_j| / sd(g) + 0.3 |c_k − c_j| / sd(c), with the histograms h
    of depth, gradients g and clumping c; deviations are those over the bands of both.
    """
    mean = [
        [np.mean([getattr(b, name) for b in domain], axis=0) for domain in (source, target)]
        for name in ("depths", "edges", "clumping")
    ]
    cost = np.abs(mean[0][0][:, None] - mean[0][1]).sum(axis=-1)
    for one, other in mean[1:]:
        spread = np.std([one, other]) or 1.0
        cost = cost + 0.3 * np.abs(one[:, None] - other) / spread
    return cost


def assignment(cost: np.ndarray) -> np.ndarray:
    """The target's band of each of the source's, σ, that makes Σ_k C_kσ(k) least."""
    return linear_sum_assignment(cost)[1]


def order_changed(source: Iterable[np.ndarray], target: Iterable[np.ndarray], labels=None) -> float:
    """R = Σ_k C_kk / Σ_k C_kσ(k): whether the order of grey levels differs between two domains.

    1.0 where the images differ and their contrast does not. Below `KEPT` (1.1) matching histograms
    is safe; above `CHANGED` (1.2) it gives tissues each other's grey levels: never show a teacher
    the target in that style. No label of the target is needed.

    Args:
        source: images `(*spatial, channels)`, volumes or grey pictures.
        target: the same of the other domain.
        labels: label maps of the source `(*spatial)`; what they name is left out. Default none.

    Returns:
        R, 1 or more; 1 where the images of a domain are too plain to have bands.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(3, 20, 20, 1))
        >>> order_changed(x, x)
        1.0
    """
    return BandStyle.between(source, target, labels).ratio


@dataclass(frozen=True)
class BandStyle:
    """A target's look for the images of a source, band by band; see `transfer`.

    Args:
        own: bands of each source image, `None` of one that is too plain.
        wanted: bands of each target image.
        sigma: the target's band of each of the source's.
        ratio: R, see `order_changed`.
    """

    own: tuple[Bands | None, ...]
    wanted: tuple[Bands | None, ...]
    sigma: tuple[int, ...]
    ratio: float

    @classmethod
    def between(cls, source, target, labels=None):
        """Bands of all images, and one assignment for all: that of their means.

        Args:
            source: images `(*spatial, channels)`.
            target: those of the other domain.
            labels: label maps of the source `(*spatial)`. Default none.
        """
        own = tuple(map(bands, source, labels) if labels is not None else map(bands, source))
        wanted = tuple(map(bands, target))
        found = [[b for b in domain if b] for domain in (own, wanted)]
        if not all(found):
            return cls(own, wanted, tuple(range(BANDS)), 1.0)
        cost = costs(*found)
        sigma = assignment(cost)
        least = cost[np.arange(BANDS), sigma].sum()
        ratio = float(np.trace(cost) / least) if least > 1e-9 else 1.0
        return cls(own, wanted, tuple(sigma.tolist()), ratio)


def transfer(image, own, wanted, sigma, reference, rng, labels=None) -> np.ndarray:
    """An image in the grey levels of a reference, band by band.

    A grey level x belongs to the bands by Gaussian memberships; band k takes it to
    c'_σ(k) + ρ_k (x − c_k) + ε_k, with ρ from U(−1, 1) and ε from N(0, 0.15) deviations of the
    reference. A labelled structure has no home among the bands: in half of the draws its level is
    drawn between the reference's 5th and 99th percentiles, its edge softened.

    Args:
        image: `(*spatial, channels)`, grey; its background stays.
        own: its bands.
        wanted: those of the reference.
        sigma: the reference's band of each own one.
        reference: `(*spatial, channels)`, an image of the target.
        rng: `np.random.Generator`.
        labels: `(*spatial)` of the image. Default none.

    Returns:
        float32 `(*spatial, channels)`; the image itself where one of the two has no bands.

    Raises:
        ValueError: an image of colours, or of several contrasts.
    """
    x, inside = _grey(image)
    target, there = _grey(reference)
    if np.abs(np.asarray(image, "float32") - x[..., None]).mean() > 0.05 * x[inside].std():
        raise ValueError(
            f"bands: an image of {np.shape(image)[-1]} channels that differ; expected a grey "
            "picture or a volume of one contrast. Colours are matched by their histograms."
        )
    if own is None or wanted is None:
        return np.asarray(image, "float32")
    values = target[there]
    levels = wanted.centres[list(sigma)] + 0.15 * values.std() * rng.standard_normal(len(sigma))
    slopes = rng.uniform(-1, 1, len(sigma))
    widths = np.maximum(own.widths, 0.3 * np.gradient(own.centres))
    total, weights = np.zeros_like(x), np.zeros_like(x)
    for centre, width, slope, level in zip(own.centres, widths, slopes, levels, strict=True):
        offset = x - centre
        member = np.exp(-0.5 * np.minimum(np.abs(offset / width), 8) ** 2)  # of some band, always
        total += member * (level + slope * np.clip(offset, -2 * width, 2 * width))
        weights += member
    styled = total / weights
    for name in [] if labels is None else np.unique(labels[labels > 0]):
        if rng.random() < 0.5:
            mask = labels == name
            level = rng.uniform(*np.percentile(values, [5, 99]))
            lesion = level + rng.uniform(-1, 1) * (x - x[mask].mean())
            styled += gaussian_filter(mask.astype("float32"), SMOOTHING) * (lesion - styled)
    return np.where(inside[..., None], styled[..., None], image).astype("float32")


def _grey(image):
    """Mean of the channels, and where the foreground lies: what is not 0, or else not darkest.

    The darkest value of an image without zeros is background where one pixel in a hundred has it.
    """
    image = np.asarray(image, "float32")
    x = image.mean(axis=-1)
    outside = (image == 0).all(axis=-1)
    if not outside.any():
        outside = x == x.min()
        outside &= outside.mean() > 0.01
    return x, ~outside if not outside.all() else np.ones_like(outside)


def _smoothed(x, inside):
    """Gaussian mean of the foreground alone."""
    weight = gaussian_filter(inside.astype("float32"), SMOOTHING)
    total = gaussian_filter(np.where(inside, x, 0), SMOOTHING)
    return np.where(inside, total / np.maximum(weight, 1e-6), 0)
