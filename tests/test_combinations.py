"""Every method with every network, in 2D and 3D: the table of docs/combinations.md is what happens.

`python tests/test_combinations.py` writes the table anew.
"""

from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.augment import Intensity
from keras_meduda.data.cases import without_masks
from keras_meduda.data.phantoms import write_brain
from keras_meduda.data.pipeline import Batches, prepare
from keras_meduda.methods import category_regularization as uda
from keras_meduda.models.needs import Needs

PAGE = Path(__file__).parents[1] / "docs" / "combinations.md"
NETWORKS = {  # by what their builders say of themselves
    name: value
    for name, value in sorted(vars(km.models).items(), key=lambda item: item[0].lower())
    if isinstance(getattr(value, "needs", None), Needs)
}


def category(network, overlapping, **preset):
    return km.methods.CategoryRegularization(
        network, overlapping, **{"warm_up": 0.0, "passes": 2, **preset}
    )


def foundation(network, overlapping):
    return km.methods.FoundationDistillation(network, teacher_channels=3, overlapping=overlapping)


METHODS = {
    "Supervised": km.methods.Supervised,
    "KLDistillation": km.methods.KLDistillation,
    "CategoryRegularization": category,
    "BEAL": partial(category, **uda.BEAL),
    "POSAL": partial(category, **uda.POSAL),
    "MEAN_TEACHER": partial(category, **uda.MEAN_TEACHER),
    "SOURCE_ONLY": partial(category, **uda.SOURCE_ONLY),
    "FoundationDistillation": foundation,
    "MaskedConsistency": km.methods.MaskedConsistency,
    "SourceFree": partial(km.methods.SourceFree, confidence=0.0),
}
ROWS = [(name, rank) for name, build in NETWORKS.items() for rank in build.needs.ranks]
REFUSED = [(name, rank) for name in NETWORKS for rank in (2, 3) if (name, rank) not in ROWS]
QUICK = [("AERUNet", 2), ("AERUNet", 3)]
PUBLISHED = ["Supervised", "KLDistillation", "CategoryRegularization", "FoundationDistillation"]
CHANNELS = 3  # three classes that overlap, or two that exclude each other
HEADER = """# Which method trains which network

Every method trains every network, in 2D and in 3D where the network has both.

* `RatLesNetV2` takes volumes alone, `DeepLabV3Plus` and `UNetS5D16` pictures alone: they keep the
  layers of their published weights. Each refuses the other rank and names the networks that take
  it.
* `UNETR` takes a fixed size, a multiple of 16. `UNetPlusPlus` takes any size from 16 on, all others
  any size.
* Where a network gives no `boundary`, `CategoryRegularization` trains one beside it: a pointwise
  convolution of its `features`.
* Where a network is not made of an `encoder` and a `head`, stochastic passes begin at its
  `features`.
* `BEAL`, `POSAL`, `MEAN_TEACHER` and `SOURCE_ONLY` are settings of `CategoryRegularization`.
* A [network of your own](own_network.md) is trained by every method as well.
* `meduda train --method` takes `supervised`, `kl_distillation`, `masked_consistency`,
  `category_regularization`, `beal`, `posal`, `mean_teacher` and `foundation_distillation`.
  `SourceFree` is `meduda adapt --run RUN --images FOLDER`. `SOURCE_ONLY` is
  `meduda train uda_clr --method source_only`.

"trains": a tiny network took a step, its loss was finite and its weights moved. Classes overlap in
every other cell of a row and exclude each other in the rest. `tests/test_combinations.py` tries
each cell and compares; `python tests/test_combinations.py` writes this page.

"""


def sample(rank, overlapping):
    """A batch of two tiny images with every view that a method may ask for."""
    rng = np.random.default_rng(0)
    space = (2, *[16] * rank)

    def normal(*shape):
        return rng.normal(size=shape).astype("float32")

    labels = rng.integers(0, CHANNELS, space)
    hot = np.eye(CHANNELS, dtype="float32")[labels]
    taught = rng.uniform(size=(*space, CHANNELS if overlapping else CHANNELS - 1))
    target = {view: normal(*space, 1) for view in ("image", "strong", "style")}
    return {
        "source": {"image": normal(*space, 1), "mask": hot, "boundary": hot[..., :1]},
        "target": {
            **target,
            "teacher": taught.astype("float32"),
            "teacher_variance": np.full(2, 0.1, "float32"),
            "teacher_features": normal(2, *[4] * rank, 3),
        },
    }


def outcome(make, network, rank, overlapping):
    """What comes of one step of a method: `"trains"`, or why not."""
    try:
        method = make(network, overlapping)
        method.compile(keras.optimizers.SGD(1e-3), keras.optimizers.SGD(1e-3))
        method.total_steps = 1
        before = [w.numpy() for w in network.trainable_weights]
        terms = method.train_step(sample(rank, overlapping))
    except ValueError as error:
        return str(error).splitlines()[0]
    if not all(np.isfinite(float(value)) for value in terms.values()):
        return "not finite"
    pairs = zip(network.trainable_weights, before, strict=True)
    return "trains" if any(np.any(w.numpy() != b) for w, b in pairs) else "does not move"


def cells(name, rank, methods):
    """What each of the methods does on a tiny network of that kind."""
    keras.utils.set_random_seed(0)
    build = NETWORKS[name]
    network = build((*[16] * rank, 1), CHANNELS, **build.needs.small)
    columns = list(METHODS)
    return [
        outcome(METHODS[m], network, rank, overlapping=(columns.index(m) + rank) % 2 == 0)
        for m in methods
    ]


def row(name, rank):
    """A line of the table."""
    return f"| {name} | {rank}D | {' | '.join(cells(name, rank, METHODS))} |"


@pytest.mark.parametrize(
    ("name", "rank"),
    [pytest.param(*r, marks=() if r in QUICK else pytest.mark.slow) for r in ROWS],
)
def test_the_table_says_what_trains(name, rank):
    """Every method on one network, the published ones on all: each cell compiles a training."""
    wanted = list(METHODS) if (name, rank) in QUICK else PUBLISHED
    found = dict(zip(wanted, cells(name, rank, wanted), strict=True))
    (line,) = (x for x in PAGE.read_text().splitlines() if x.startswith(f"| {name} | {rank}D |"))
    said = dict(zip(METHODS, line.strip("| ").split(" | ")[2:], strict=True))
    assert {method: said[method] for method in found} == found, (
        "docs/combinations.md says otherwise; where that is as it should be: "
        "python tests/test_combinations.py"
    )


def test_the_table_has_every_network_and_method():
    assert len(NETWORKS) == 8
    assert set(km.methods.__all__) <= set(METHODS)
    presets = {name for name, value in vars(uda).items() if name.isupper()}
    assert presets <= set(METHODS)
    lines = PAGE.read_text().splitlines()
    assert [line.split(" | ")[:2] for line in lines if line.startswith("| ")][1:] == [
        [f"| {name}", f"{rank}D"] for name, rank in ROWS
    ]


@pytest.mark.parametrize(("name", "rank"), REFUSED)
def test_a_rank_that_a_network_has_not_is_refused(name, rank):
    with pytest.raises(ValueError, match="AERUNet, UNet, UNetPlusPlus, DynUNet and UNETR"):
        NETWORKS[name]((*[16] * rank, 1), CHANNELS)


def test_volumes_are_adapted_by_prototypes_and_discriminators(tmp_path):
    """The whole way, from files to a run, of the method that asks most of its data."""
    task, size = km.Task(("tumour",), values={"tumour": (1,)}, unit="mm"), (16, 16, 16)
    cases = km.read_cases(write_brain(tmp_path / "brains", 2, (18, 20, 16)))
    preprocessing = km.Preprocessing(
        size, normalise="zscore_foreground", channels=1, axes="ZXY", fit="crop"
    )
    halves = {domain: cases[cases["domain"] == domain] for domain in ("t2", "flair")}
    batches = Batches(
        2,
        source=prepare(halves["t2"], task, preprocessing, tmp_path, labels=True),
        target=prepare(without_masks(halves["flair"]), task, preprocessing, tmp_path, labels=False),
        photometry=Intensity(),
        boundary=True,
    )
    with km.setup():
        network = km.models.UNet((*size, 1), task.channels, filters=(4, 8))
        method = km.methods.CategoryRegularization(network, False, warm_up=0.0, passes=2)
        method.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-3))
    run = km.fit(method, batches, steps=2, run_dir=tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert np.isfinite(history["adversarial_boundary"]).all()
    assert km.load(run.path).network.input.shape == (None, *size, 1)


if __name__ == "__main__":
    names = " | ".join(METHODS)
    lines = [f"| network | rank | {names} |", "|---" * (len(METHODS) + 2) + "|"]
    for place in ROWS:
        lines.append(row(*place))
        print(lines[-1], flush=True)
    PAGE.write_text(HEADER + "\n".join(lines) + "\n")
