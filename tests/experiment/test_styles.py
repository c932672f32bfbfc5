"""Which twins an experiment makes: R decides between histograms and bands."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import keras_meduda as km
from keras_meduda.data.pipeline import add_styles, prepare
from keras_meduda.experiment.styles import Styles
from keras_meduda.run import Run

SIZE = (64, 64)
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


def test_a_stage_may_decide_for_itself(tmp_path):
    source = prepared(tmp_path / "source", (40, 90, 200), 0)
    target = prepared(tmp_path / "target", TURNED, 10)
    styles = Styles(tmp_path / "store", seed=0)
    twins = styles.add(source, target, 2, by_bands=False)
    assert twins == add_styles(source, target, tmp_path / "store", 2, 0)
    assert not styles.facts, "R was not asked"


def readout(folder):
    """A run that is the surer of a pixel, the farther it is from the middle grey."""
    image = keras.Input((*SIZE, 3), name="image")
    layer = keras.layers.Conv2D(1, 1, name="logits")
    network = keras.Model(image, {"logits": layer(image), "features": image}, name="readout")
    layer.set_weights([np.full((1, 1, 3, 1), 2.0, "float32"), np.zeros(1, "float32")])
    task = km.Task(("disc",), overlapping=True, values={"disc": (1,)})
    return Run(folder / "run", network, task, km.Preprocessing(SIZE))


@pytest.mark.parametrize(
    ("levels", "fits"), [((20, 40, 230), True), ((120, 110, 140), False)], ids=["like", "unlike"]
)
def test_twins_train_where_the_network_is_as_sure_of_them_as_of_the_target(levels, fits, tmp_path):
    source = prepared(tmp_path / "source", (40, 90, 200), 0)
    target = prepared(tmp_path / "target", (20, 40, 230), 10)
    twins = prepared(tmp_path / "twins", levels, 20)
    styled = replace(source, styles=tuple((file,) for file in twins.images))
    styles = Styles(tmp_path / "store", seed=0)
    assert styles.represent(readout(tmp_path), styled, target) is fits
    assert ("such twins train" in styles.facts["Styles"]) is fits
    other = replace(source, styles=tuple((file,) for file in target.images))
    assert styles.represent(None, other, target) is fits, "decided once"
