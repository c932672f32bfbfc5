"""An experiment with several seeds or folds: where its runs lie, what is shared, and the table."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import write_cases
from keras_meduda.data.splits import in_folds
from keras_meduda.experiment.command_line import recipe_named
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.options import Options
from keras_meduda.experiment.recipe import Recipe, Stage, supervised
from keras_meduda.experiment.repeats import repeat
from keras_meduda.experiment.runner import run


@dataclass(frozen=True, kw_only=True)
class Flags(Options):
    """Flags of the smallest recipe."""

    steps: int = 2


@pytest.fixture
def module(phantoms):
    """A recipe of two steps on one camera's phantoms."""
    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    cases = km.read_cases(phantoms)
    cases = cases[cases["domain"] == "camera_a"]

    def data(flags):
        of = in_folds(cases, flags.folds, flags.fold) if flags.folds else cases
        train, test = (of[of["split"] == part] for part in ("train", "test"))
        return Data(task, {"source": train}, {"test": test}, "phantoms")

    def recipe(flags, data):
        network = partial(km.models.AERUNet, filters=(4, 8))
        stages = {"trained": Stage(supervised)}
        return Recipe("T", km.Preprocessing((32, 32)), stages, network, flags.steps, 2)

    return SimpleNamespace(data=data, recipe=recipe, Flags=Flags, cases=cases)


@pytest.mark.slow
def test_seeds_are_the_runs_of_each_and_end_in_one_table(module, tmp_path, capsys):
    flags = Flags(out=tmp_path / "all", seeds=(0, 3))
    repeat(module, flags)
    data = module.data(flags)
    single = Flags(out=tmp_path / "one", seed=3)
    alone = run(module.recipe(single, data), data, single)["trained"]
    for a, b in zip(
        alone.network.get_weights(),
        km.load(flags.out / "seed_3").network.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert not (flags.out / "seed_3" / "prepared").exists(), "prepared images are shared"
    table = pd.read_csv(flags.out / "spread.csv").set_index(["class", "metric"])
    for label in ("cup", "disc"):
        means = [
            frame[frame["class"] == label]["dice"].mean()
            for frame in (
                pd.read_csv(flags.out / f"seed_{s}" / "evaluation" / "test" / "cases.csv")
                for s in flags.seeds
            )
        ]
        row = table.loc[label, "dice"]
        assert row["runs"] == 2 and row["cases"] == (module.cases["split"] == "test").sum()
        np.testing.assert_allclose(row[["mean", "sd"]].astype(float),
                                   [np.mean(means), np.std(means, ddof=1)], rtol=1e-5)  # fmt: skip
        np.testing.assert_allclose(row[["seed_0", "seed_3"]].astype(float), means, rtol=1e-5)
    page = (flags.out / "spread.html").read_text("utf-8")
    assert "mean over classes" in page and 'href="seed_3/report.html"' in page
    assert "Dice, %, over 2 runs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_fold_alone_goes_where_all_gather_it(module, tmp_path, capsys):
    """Over all folds every case that is not held out is tested once; what is done is kept."""
    flags = Flags(out=tmp_path, folds=2)
    repeat(module, Flags(out=tmp_path, folds=2, fold=1))
    history = (tmp_path / "fold_1" / "history.csv").read_text()
    assert not (tmp_path / "fold_0").exists()
    repeat(module, flags)
    assert (tmp_path / "fold_1" / "history.csv").read_text() == history
    tested = [
        pd.read_csv(tmp_path / f"fold_{i}" / "evaluation" / "test" / "cases.csv") for i in range(2)
    ]
    names = [set(frame["case"]) for frame in tested]
    used = module.cases[module.cases["split"] != "test"]
    assert names[0] | names[1] == set(used["case"]) and not names[0] & names[1]
    assert not set(tested[0]["group"]) & set(tested[1]["group"])
    assert "of split 'test', are left out" in capsys.readouterr().out
    row = pd.read_csv(tmp_path / "spread.csv").iloc[0]
    assert row["cases"] == len(used) and row["runs"] == 2


READERS = {
    "combination": {"method": "supervised", "network": "UNet"},
    "ratlesnet": {},
    "meddistill": {},
    "oct": {},
    "source_free": {},
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_tests_a_group_that_trains(name, request, tmp_path):
    """Nothing is trained: only which cases take which part, in each fold."""
    module, settings = recipe_named(name), READERS[name]
    if name == "source_free":
        table = tmp_path / "cases.csv"
        cases = km.read_cases(request.getfixturevalue("phantoms"))
        write_cases(cases[cases["domain"] == "camera_b"].assign(split=""), table)
        settings = {"run": request.getfixturevalue("run").path, "images": table}
    tested, folds = [], 2 if name == "oct" else 3
    for fold in range(folds):
        flags = module.Flags(out=tmp_path, smoke=True, folds=folds, fold=fold, **settings)
        data = module.data(flags)
        of = {part: set(cases["group"]) for part, cases in data.parts.items()}
        for heading, cases in data.tests.items():
            if heading != "flair":  # RatLesNet's other domain, of which all is tested every time
                tested.append({(heading, group) for group in cases["group"]})
            paired = [p for p in of if p in heading] or ["source", "few", "target", "validation"]
            assert len(cases) and not set(cases["group"]) & set.union(
                *(of.get(p, set()) for p in paired)
            )
    assert sum(map(len, tested)) == len(set.union(*tested)), "each group is tested once"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (0, 1), "folds": 2}, "expected one of them"),
        ({"seeds": (1, 1)}, "one of them is twice"),
        ({"fold": 1}, "--fold needs --folds"),
        ({"folds": 2, "fold": 2}, "--fold 2: expected 0 to 1 of 2"),
    ],
)
def test_flags_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        Options(**settings).check()


def test_seeds_do_not_go_where_folds_lie(module, tmp_path):
    (tmp_path / "fold_1").mkdir()
    (tmp_path / "fold_1" / "config.json").touch()
    with pytest.raises(ValueError, match="holds fold_1, of which no mean can be taken with seed_0"):
        repeat(module, Flags(out=tmp_path, seeds=(0, 1)))
