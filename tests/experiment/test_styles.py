"""Which twins an experiment makes: R decides between histograms and bands."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_meduda as km
from keras_meduda.data.pipeline import add_styles, prepare
from keras_meduda.experiment.styles import Styles, self_labelled
from keras_meduda.run import Run

SIZE = (64, 64)
TASK = km.Task(("disc",), overlapping=True, values={"disc": (1,)})
KEPT, TURNED = (60, 110, 190), (210, 90, 40)  # levels of rim, ring and middle, after 40, 90, 200


def picture(seed, levels):
    """A disc in a ring in a rim, grey."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE) - 31.5 - rng.uniform(-3, 3, (2, 1, 1))
    radius = np.hypot(x, y)
    drawn = np.select([radius > 24, radius > 12], levels[:2], levels[2])
    return (drawn + rng.normal(0, 6, SIZE)).clip(1, 255).astype("uint8")


def prepared(folder, levels, first, colour=1.0):
    """Four pictures, prepared."""
    folder.mkdir()
    for i in range(first, first + 4):
        grey = picture(i, levels)
        Image.fromarray(np.stack([grey, grey, (colour * grey).astype("uint8")], -1)).save(
            folder / f"{i}.png"
        )
    files = sorted(folder.glob("*.png"))
    cases = pd.DataFrame(
        {"case": [f.stem for f in files], "image": [str(f) for f in files], "mask": ""}
    ).assign(domain=folder.name, split="", group="")
    task = km.Task(("disc",), values={"disc": (1,)})
    return prepare(cases, task, km.Preprocessing(SIZE), folder / "store", labels=False)


@pytest.mark.parametrize(
    ("levels", "colour", "bands", "said"),
    [
        (KEPT, 1.0, False, "is kept: styles match histograms"),
        (TURNED, 1.0, True, "has changed: styles match bands"),
        (TURNED, 0.5, False, "colours can be matched by their histograms alone"),
    ],
    ids=["order kept", "order changed", "order of colours changed"],
)
def test_r_decides_how_twins_are_made(levels, colour, bands, said, tmp_path, capsys):
    source = prepared(tmp_path / "source", (40, 90, 200), 0, colour)
    target = prepared(tmp_path / "target", levels, 10, colour)
    styles = Styles(tmp_path / "store", seed=0)
    twins = styles.add(source, target, 2)
    assert twins == add_styles(source, target, tmp_path / "store", 2, 0, by_bands=bands)
    assert said in styles.facts["Grey levels"] and said in capsys.readouterr().out


def test_twins_by_bands_train_whatever_a_network_thinks_of_them(tmp_path):
    source = prepared(tmp_path / "source", (40, 90, 200), 0)
    target = prepared(tmp_path / "target", TURNED, 10)
    twins = Styles(tmp_path / "store", seed=0).of_source(None, source, target, 2)
    assert twins == add_styles(source, target, tmp_path / "store", 2, 0, by_bands=True)


def test_a_stage_may_decide_for_itself(tmp_path):
    source = prepared(tmp_path / "source", (40, 90, 200), 0)
    target = prepared(tmp_path / "target", TURNED, 10)
    styles = Styles(tmp_path / "store", seed=0)
    twins = styles.add(source, target, 2, by_bands=False)
    assert twins == add_styles(source, target, tmp_path / "store", 2, 0)
    assert not styles.facts, "R was not asked"


def cells(seed, count, dark, bright):
    """Bright discs upon noise, and how many."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE)
    drawn = np.full(SIZE, float(dark))
    for _ in range(count):
        centre = rng.uniform(4, 60, 2)
        drawn[np.hypot(x - centre[0], y - centre[1]) < 5] = bright
    return (drawn + rng.normal(0, 8, SIZE)).clip(1, 255).astype("uint8")


def microscope(folder, first, *settings):
    """Four pictures of cells with masks by threshold, prepared with them."""
    folder.mkdir()
    rows = []
    for i in range(first, first + 4):
        grey, middle = cells(i, *settings), sum(settings[1:]) / 2
        files = folder / f"{i}.png", folder / f"{i}_mask.png"
        for file, array in zip(files, (grey, (grey > middle).astype("uint8")), strict=True):
            Image.fromarray(array).save(file)
        rows.append((str(i), *map(str, files), folder.name, "", ""))
    cases = pd.DataFrame(rows, columns=["case", "image", "mask", "domain", "split", "group"])
    return prepare(cases, TASK, km.Preprocessing(SIZE), folder / "store", labels=True)


def readout(folder):
    """A run that finds what is bright in the mean of 25 pixels, and is unsure of middle grey."""
    image = keras.Input((*SIZE, 3), name="image")
    layer = keras.layers.Conv2D(1, 5, padding="same", name="logits")
    network = keras.Model(image, {"logits": layer(image), "features": image}, name="readout")
    layer.set_weights([np.full((5, 5, 3, 1), 24 / 75, "float32"), np.zeros(1, "float32")])
    return Run(folder / "run", network, TASK, km.Preprocessing(SIZE))


@pytest.mark.parametrize(
    ("there", "count", "said"),
    [
        (3, 3, "own: such twins train."),
        (3, 14, "such twins mislead; a class takes up to 4."),
        (14, 3, "such twins mislead; a class takes up to "),
    ],
    ids=["equal proportions", "many more in the target", "many fewer in the target"],
)
def test_twins_follow_the_proportions_of_the_classes_where_those_differ(
    there, count, said, tmp_path
):
    source = microscope(tmp_path / "source", 0, there, 40, 200)
    target = microscope(tmp_path / "target", 10, count, 60, 220)
    styles, run = Styles(tmp_path / "store", seed=0), readout(tmp_path)
    target = replace(target, labels=())
    twins = styles.of_source(run, source, target, 2).styles
    assert said in styles.facts["Styles"], styles.facts
    assert styles.facts["Styles"].endswith("such twins train.")
    by_class = count != there
    references = self_labelled(run, target, tmp_path / "store") if by_class else target
    store = tmp_path / "store"
    assert twins == add_styles(source, references, store, 2, 0, by_class=by_class).styles
    assert styles.add(source, target, 2).styles == twins, "the guard judges on the same"


@pytest.mark.parametrize("tilted", [False, True], ids=["a tie", "a tilted readout"])
def test_a_teacher_sees_the_source_s_style_where_it_agrees_more_with_itself(tilted, tmp_path):
    source = microscope(tmp_path / "source", 0, 3, 40, 200)
    dim = 90, 130  # on which a readout that is tilted along X depends on how the image is turned
    target = replace(microscope(tmp_path / "target", 10, 3, *dim), labels=())
    run = readout(tmp_path)
    if tilted:
        image = run.network.input
        ramp = np.linspace(-9, 9, SIZE[1], dtype="float32")[None, :, None]
        logits = keras.layers.Rescaling(1.0, ramp.tolist())(run.network(image)["logits"])
        network = keras.Model(image, {"logits": logits, "features": image})
        run = replace(run, network=network)
    styles = Styles(tmp_path / "store", seed=0)
    seen = styles.of_target(run, target, source, ["a", "b", "c", "d"], 2)
    assert bool(seen.styles) == tilted, styles.facts
    where = "in the source's style" if tilted else "as it is"
    assert styles.facts["Teacher's view"].endswith(f"sees the target {where}.")


def test_by_class_needs_labels_of_both(tmp_path):
    source = microscope(tmp_path / "source", 0, 3, 40, 200)
    with pytest.raises(ValueError, match="0 of the references"):
        add_styles(source, replace(source, labels=()), tmp_path / "store", by_class=True)


def test_twins_that_mislead_in_any_form_are_left_out(tmp_path):
    source = microscope(tmp_path / "source", 0, 0, 40, 200)  # noise, in which nothing is found
    target = replace(microscope(tmp_path / "target", 10, 14, 60, 220), labels=())
    styles = Styles(tmp_path / "store", seed=0)
    assert styles.of_source(readout(tmp_path), source, target, 2) == source
    assert styles.facts["Styles"].endswith("such twins mislead and are left out.")
    assert styles.of_source(None, source, target, 2) == source, "decided once"
