"""`recipes/uda_clr.py`: the paper's schedule and start, and real networks on odd images."""

from pathlib import Path

import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import write_picture
from keras_meduda.data.phantoms import write_fundus
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.recipes import uda_clr

SIDE = 32
TASK = km.Task(("cup", "disc"), overlapping=True, values={"cup": (255,), "disc": (128, 255)})


def method_of(backbone, precision="float32"):
    with km.setup(seed=0, precision=precision):
        network = km.models.DeepLabV3Plus((SIDE, SIDE, 3), 2, backbone)
        method = km.methods.CategoryRegularization(network, True, passes=2, warm_up=0.0)
        uda_clr.compile_with(1e-3)(method, 400)
    method.total_steps = 400
    return method


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Two and two images, restyled, moved and spoilt; one target is black, one small."""
    folder = tmp_path_factory.mktemp("uda_clr")
    cases = km.read_cases(write_fundus(folder, cases_per_domain=4))
    source, target = (cases[cases["domain"] == f"camera_{x}"][:2] for x in "ab")
    write_picture(Path(target["image"].iloc[0]), np.zeros((64, 64, 3), "uint8"))
    write_picture(Path(target["image"].iloc[1]), np.full((20, 24, 3), 99, "uint8"))
    size, store = km.Preprocessing(size=(SIDE, SIDE)), folder / "prepared"
    source = prepare(source, TASK, size, store, labels=True)
    target = prepare(without_masks(target), TASK, size, store, labels=False)
    source = add_styles(source, target, store)
    return Batches(2, seed=0, boundary=True, **uda_clr.augmentation(), source=source, target=target)


def test_schedule_of_the_paper():
    method = method_of("mobilenetv2")
    adam, sgd = method.optimizer, method.discriminator_optimizer
    rates = [float(adam._learning_rate(step)) for step in (0, 80, 81, 399)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 2e-4, 2e-4], rtol=1e-6)
    assert (adam.beta_2, adam.epsilon) == (0.99, 1e-8)
    rate = float(np.array(sgd.learning_rate))
    assert (rate, sgd.momentum, sgd.l2) == (pytest.approx(2.5e-5), 0.99, 5e-4)


@pytest.mark.parametrize(
    ("settings", "start"), [({}, "first"), ({"from_source_only": True}, "source_only")]
)
def test_the_adaptation_starts_as_published_or_where_source_only_ended(tmp_path, settings, start):
    flags = uda_clr.Flags(smoke=True, out=tmp_path, **settings)
    recipe = uda_clr.recipe(flags, uda_clr.data(flags))
    assert recipe.stages["adapted"].start == start and list(recipe.stages)[0] == "source_only"


@pytest.mark.parametrize(
    "backbone, precision",
    [
        ("mobilenetv2", "mixed_bfloat16"),
        pytest.param("resnet50", "float32", marks=pytest.mark.slow),
    ],
)
def test_real_networks_learn_from_a_black_and_a_small_target(batches, backbone, precision):
    method = method_of(backbone, precision)
    before = [np.array(w) for w in method.network.trainable_variables]
    terms = method.train_step(next(iter(batches.from_step(0))))
    assert all(np.isfinite(float(value)) for value in terms.values()), terms
    after = [np.array(w) for w in method.network.trainable_variables]
    assert all(np.isfinite(w).all() for w in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
