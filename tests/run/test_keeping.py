"""Which weights a run keeps, and when it ends before its last step."""

import keras
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.run import folder as run_folder

STEPS = 6


def build():
    with km.setup(seed=3):
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.KLDistillation(network, overlapping=True, ema=0.9)
        method.compile(keras.optimizers.Adam(1e-2))
    return method


def weights(run):
    return [np.array(w) for w in run.network.weights]


def history(run_dir):
    return pd.read_csv(run_dir / "history.csv")


def test_keep_best_keeps_the_best(batches, tmp_path):
    values = iter([0.1, 0.9, 0.4])
    seen = []

    def validation(network):
        seen.append([np.array(w) for w in network.weights])
        return {"dice": next(values)}

    run = km.fit(
        build(),
        batches,
        steps=STEPS,
        run_dir=tmp_path,
        validation=validation,
        validate_every=2,
        keep="best:dice",
    )
    for a, b in zip(weights(run), seen[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path)["dice"].tolist() == [0.1, 0.9, 0.4]


def test_another_validation_does_not_choose_among_the_weights_of_the_first(batches, tmp_path):
    def validation(network):
        return {"dice": 0.5}

    def train():
        km.fit(build(), batches, steps=2, run_dir=tmp_path, validation=validation, keep="best:dice")

    validation.settings = "3 cases, abc"
    train()
    validation.settings = "3 cases, abd"
    with pytest.raises(ValueError, match="validation: 3 cases, abc there, 3 cases, abd now"):
        train()


def fit_patiently(batches, run_dir, dice=(0.1, 0.9, 0.4, 0.9, 0.3, 1.0), **settings):
    """A training of six steps, checkpoints at 2 and 4; returns it and the weights of every step."""
    method, seen = build(), {}

    def validation(network):
        step = int(method.step)
        seen[step] = [np.array(w) for w in network.weights]
        return {"dice": dice[step - 1]}

    settings = {"patience": 2, "keep": "best:dice", "validation": validation, **settings}
    run = km.fit(
        method,
        batches,
        steps=STEPS,
        run_dir=run_dir,
        validate_every=1,
        checkpoint_every=2,
        **settings,
    )
    return run, seen


def test_patience_ends_a_run_which_keeps_its_best_network_and_says_why(batches, tmp_path):
    run, seen = fit_patiently(batches, tmp_path)
    assert list(seen) == [1, 2, 3, 4]
    for a, b in zip(weights(run), seen[2], strict=True):
        np.testing.assert_array_equal(a, b)
    table = history(tmp_path)
    assert table["dice"].tolist() == [0.1, 0.9, 0.4, 0.9]
    assert table["ended"].tolist()[3] == "2 validations without a higher dice"
    assert table["ended"].isna().tolist() == [True, True, True, False]

    again, seen = fit_patiently(batches, tmp_path)
    assert not seen and history(tmp_path).equals(table)
    for a, b in zip(weights(again), weights(run), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_survives_a_crash(batches, tmp_path, stop_at):
    dice = (0.3, 0.9, 0.1, 0.2, 0.3, 1.0)  # ends with step 5; the last checkpoint is of step 4
    whole, _ = fit_patiently(batches, tmp_path / "whole", dice, patience=3)
    with pytest.raises(RuntimeError, match="power"):
        crash = stop_at(batches, 5, RuntimeError("power"))
        fit_patiently(crash, tmp_path / "cut", dice, patience=3)
    cut, _ = fit_patiently(batches, tmp_path / "cut", dice, patience=3)
    assert history(tmp_path / "cut").equals(history(tmp_path / "whole"))
    for a, b in zip(weights(cut), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("step", [3, STEPS])
@pytest.mark.parametrize("moment", ["in the validation", "before the best is kept"])
def test_an_interrupted_validation_is_repeated(batches, tmp_path, monkeypatch, step, moment):
    dice = [0.9 if i == step else i / 10 for i in range(1, STEPS + 1)]
    whole, _ = fit_patiently(batches, tmp_path / "whole", dice, patience=None)
    calls, save_network = [], run_folder.RunFolder.save_network

    def validation(_):
        calls.append(dice[len(calls)])
        if moment == "in the validation" and len(calls) == step:
            raise KeyboardInterrupt
        return {"dice": calls[-1]}

    def saved(folder, network, name):
        if len(calls) == step:
            raise KeyboardInterrupt
        save_network(folder, network, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder.RunFolder, "save_network", saved)
        fit_patiently(batches, tmp_path / "cut", dice, patience=None, validation=validation)
    cut, _ = fit_patiently(batches, tmp_path / "cut", dice, patience=None)
    assert history(tmp_path / "cut").equals(history(tmp_path / "whole"))
    for a, b in zip(weights(cut), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("second", "steps"), [(np.nan, [1, 2]), (0.1, [1, 2, 3, 4])])
def test_nan_is_no_better_value(batches, tmp_path, second, steps):
    run, seen = fit_patiently(batches, tmp_path, (np.nan, second) + (np.nan,) * 4)
    assert list(seen) == steps
    for a, b in zip(weights(run), seen[2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_skipped_validation_is_nan(batches, tmp_path):
    km.fit(
        build(),
        batches,
        steps=4,
        run_dir=tmp_path,
        validation=lambda _: {"dice": 0.5},
        validate_every=4,
        checkpoint_every=2,
    )
    assert history(tmp_path)["dice"].isna().tolist() == [True, False]
