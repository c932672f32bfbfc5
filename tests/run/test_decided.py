"""A run folder below which an adaptation kept the network that it decided for."""

import shutil

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.run import chosen
from keras_meduda.run.bundle import bundle
from keras_meduda.run.decided import FEW, GUARDED


@pytest.fixture
def folder(run, tmp_path):
    """A run, and below it others whose weights are told by their last bias."""
    shutil.copytree(run.path, tmp_path / "run")
    for number, name in enumerate((GUARDED, FEW), 1):
        network = keras.models.clone_model(run.network)
        network.set_weights([*run.network.get_weights()[:-1], np.full(2, number, "float32")])
        (tmp_path / "run" / name).mkdir()
        network.save(tmp_path / "run" / name / "network.keras")
        shutil.copy(run.path / "config.json", tmp_path / "run" / name)
    return tmp_path / "run"


def bias(run):
    return run.network.get_weights()[-1].tolist()


def test_what_was_decided_last_is_taken(folder):
    assert chosen(folder) == folder / FEW and bias(km.load(folder)) == [2, 2]
    shutil.rmtree(folder / FEW)
    assert km.load(folder).path == folder / GUARDED and bias(km.load(folder)) == [1, 1]
    (folder / GUARDED / "network.keras").unlink()  # as an interrupted decision leaves it
    assert chosen(folder) == folder


def test_the_network_as_it_was_trained_is_there_all_the_same(folder, run):
    trained = km.load(folder, trained=True)
    assert trained.path == folder and bias(trained) == bias(run)


def test_a_bundle_holds_what_was_decided_for(folder, tmp_path):
    assert bias(km.load(bundle(folder, tmp_path / "run.zip"))) == [2, 2]


def supervised():
    """The method that has trained the run."""
    with km.setup():
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    return method


@pytest.mark.parametrize("again", [{"steps": 4, "resume": False}, {"steps": 6}])
def test_a_training_that_starts_over_or_is_extended_forgets_what_was_decided(
    folder, batches, again
):
    (folder / "confidence.json").write_text("{}")
    run = km.fit(supervised(), batches, run_dir=folder, **again)
    assert chosen(folder) == run.path and bias(km.load(folder)) == bias(run)
    assert not {FEW, GUARDED, "confidence.json"} & {path.name for path in folder.iterdir()}


def test_a_finished_training_goes_on_from_its_own_network(folder, run, batches):
    again = km.fit(supervised(), batches, steps=4, run_dir=folder)
    assert again.path == folder and bias(again) == bias(run)
