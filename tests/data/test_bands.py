"""Bands of grey levels: where the order changed, a style that follows, and what must stay."""

import numpy as np
import pytest

from keras_meduda.data.bands import (
    BANDS,
    CHANGED,
    KEPT,
    BandStyle,
    assignment,
    bands,
    costs,
    order_changed,
    transfer,
)
from keras_meduda.data.cases import read_cases, without_masks
from keras_meduda.data.intensity import match_histogram, zscore
from keras_meduda.data.io import read_image
from keras_meduda.data.phantoms.brain import CONTRASTS, _anatomy, _scan
from keras_meduda.data.pipeline import add_styles, order_ratio, prepare
from keras_meduda.task import Preprocessing, Task

SIZE = (48, 54, 42)


def brain(seed, contrast):
    """A z-scored head, its tumour, and where there is fluid."""
    rng = np.random.default_rng(seed)
    tissues, tumour = _anatomy(rng, SIZE)
    scan = _scan(rng, tissues, CONTRASTS[contrast]).astype("float32")
    return zscore(scan, scan != 0)[..., None], tumour, (tissues[2] > 0.8) & (scan != 0)


@pytest.fixture(scope="module")
def heads():
    """Three heads in FLAIR, three others in FLAIR, and three others in T2."""
    kinds = {"flair": (0, "flair"), "others": (10, "flair"), "t2": (20, "t2")}
    return {k: [brain(s + i, c) for i in range(3)] for k, (s, c) in kinds.items()}


def images(group):
    return [image for image, _, _ in group]


def tumours(group):
    return [tumour for _, tumour, _ in group]


def test_where_only_the_brains_differ_the_order_is_kept(heads):
    ratio = order_changed(images(heads["flair"]), images(heads["others"]), tumours(heads["flair"]))
    assert 1 <= ratio < KEPT


def test_between_two_contrasts_the_order_has_changed(heads):
    for one, other in [("flair", "t2"), ("t2", "flair")]:
        pair = images(heads[one]), images(heads[other])
        assert CHANGED < 1.35 < order_changed(*pair, tumours(heads[one])) < 2.5


def test_fluid_turns_bright_where_matched_histograms_leave_it_dark(heads):
    style = BandStyle.between(
        images(heads["flair"]), images(heads["t2"]), tumours(heads["flair"])
    )
    shifts = {"bands": [], "histograms": [], "true": []}
    for i, ((image, tumour, fluid), (reference, _, there)) in enumerate(
        zip(heads["flair"], heads["t2"], strict=True)
    ):
        rng = np.random.default_rng(i)
        given = (image, style.own[i], style.wanted[i], style.sigma, reference)
        twins = [transfer(*given, rng, tumour)[fluid].mean() for _ in range(4)]
        matched = match_histogram(image, reference, image[..., 0] != 0, reference[..., 0] != 0)
        shifts["bands"].append(np.mean(twins))
        shifts["histograms"].append(matched[fluid].mean())
        shifts["true"].append(reference[there].mean())
    level = {name: np.mean(values) for name, values in shifts.items()}
    assert level["histograms"] < -0.5 < 0.8 < level["bands"] == pytest.approx(level["true"], abs=1)


def test_bands_are_of_equal_mass_and_rise(heads):
    image, tumour, _ = heads["flair"][0]
    found = bands(image, tumour)
    assert (np.diff(found.centres) > 0).all()
    np.testing.assert_allclose(found.depths.sum(axis=1), 1)
    assert ((found.clumping > 0) & (found.clumping <= 1)).all()


def test_labelled_voxels_are_left_out(heads):
    image, tumour, _ = heads["flair"][0]
    marked = image.copy()
    marked[tumour > 0] = 9.0  # only through the smoothed voxels around it
    inner, outer = bands(marked, tumour), bands(marked)
    assert inner.centres[-1] < 0.8 * outer.centres[-1]


def test_a_domain_fits_itself_band_by_band(heads):
    own = [bands(*pair) for pair in zip(images(heads["t2"]), tumours(heads["t2"]), strict=True)]
    cost = costs(own, own)
    np.testing.assert_allclose(np.diag(cost), 0, atol=1e-9)
    np.testing.assert_array_equal(assignment(cost), np.arange(BANDS))


def test_background_stays_and_a_seed_gives_the_same(heads):
    (image, tumour, _), (reference, _, _) = heads["flair"][0], heads["t2"][0]
    given = image, bands(image, tumour), bands(reference), range(BANDS), reference
    one, again, other = (
        transfer(*given, np.random.default_rng(s), tumour) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one[image == 0], 0)
    assert np.abs(one - other).max() > 0.1


def test_a_grey_picture_whose_rim_is_darker_there_than_here():
    def picture(seed, rim, ring, middle):
        rng = np.random.default_rng(seed)
        y, x = np.indices((64, 64)) - 31.5 - rng.uniform(-3, 3, (2, 1, 1))
        radius = np.hypot(x, y)
        levels = np.select([radius > 24, radius > 12], [rim, ring], middle)
        return (levels + rng.normal(0, 6, (64, 64)))[..., None].clip(1, 255).astype("uint8")

    one = [picture(i, 40, 90, 200) for i in range(4)]
    same = [picture(9 + i, 60, 110, 190) for i in range(4)]
    turned = [picture(9 + i, 210, 90, 40) for i in range(4)]
    assert order_changed(one, same) < KEPT < CHANGED < order_changed(one, turned)


def test_a_plain_image_has_no_bands_and_stays_as_it_is():
    plain, image = np.full((16, 16, 1), 7.0), np.random.default_rng(0).normal(size=(16, 16, 1))
    assert bands(plain) is None and order_changed([plain], [image]) == 1
    kept = transfer(plain, None, bands(image), range(BANDS), image, np.random.default_rng(0))
    np.testing.assert_array_equal(kept, plain)


def test_colours_are_refused():
    colours = np.random.default_rng(0).uniform(0, 255, (16, 16, 3))
    found = bands(colours)
    with pytest.raises(ValueError, match="channels that differ; expected a grey picture"):
        transfer(colours, found, found, range(BANDS), colours, np.random.default_rng(0))


def test_twins_are_written_once_and_kept_apart_from_those_of_histograms(tmp_path, stamps):
    from keras_meduda.data.phantoms import write_brain

    cases = read_cases(write_brain(tmp_path, cases_per_domain=2, size=(24, 26, 22)))
    task = Task(("tumour",))
    preprocessing = Preprocessing(
        (24, 26, 22), normalise="zscore_foreground", channels=1, axes="XYZ"
    )
    store = tmp_path / "store"
    halves = cases[cases["domain"] == "flair"], without_masks(cases[cases["domain"] == "t2"])
    source = prepare(halves[0], task, preprocessing, store, labels=True)
    target = prepare(halves[1], task, preprocessing, store, labels=False)
    assert order_ratio(source, target) >= 1
    matched = add_styles(source, target, store, variants=2)
    twins = add_styles(source, target, store, variants=2, by_bands=True)
    before = stamps(store)
    assert add_styles(source, target, store, variants=2, by_bands=True) == twins
    assert stamps(store) == before
    other = add_styles(source, target, store, variants=2, seed=1, by_bands=True)
    assert not {f for t in matched.styles + other.styles for f in t} & {
        f for t in twins.styles for f in t
    }
    for image, files in zip(twins.images, twins.styles, strict=True):
        image = twins.image(image).astype("float32")
        for file in files:
            twin = twins.image(file).astype("float32")
            np.testing.assert_array_equal(twin[image == 0], 0)
            assert twin[image != 0].std() == pytest.approx(1, abs=0.02)


def test_the_order_changes_between_real_contrasts(data_root):
    """BraTS: the same subjects in T1 and T2, and in two halves of one contrast."""
    cases = read_cases(data_root / "shifts/brats_contrasts/cases.csv")

    def scans(domain, groups):
        rows = cases[(cases["domain"] == domain) & cases["group"].isin(groups)]
        found = [read_image(cell).array.astype("float32") for cell in rows["image"]]
        return [zscore(x, x != 0) for x in found]

    groups = sorted(set(cases["group"]))
    first, second = groups[:4], groups[4:8]
    assert order_changed(scans("t2", first), scans("t2", second)) < CHANGED
    assert order_changed(scans("t1", first), scans("t2", second)) > CHANGED
