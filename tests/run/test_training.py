"""The training loop: what it leaves behind, and that nothing is lost however it ends."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.summary.summary_iterator import summary_iterator

import keras_meduda as km
from keras_meduda.data.augment import Geometry
from keras_meduda.run import folder as run_folder

STEPS = 6


def build(learning_rate=1e-2, ema=0.9, precision="float32"):
    with km.setup(precision=precision, seed=3):
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.KLDistillation(network, overlapping=True, ema=ema)
        method.compile(keras.optimizers.Adam(learning_rate))
    return method


def weights(run):
    return [np.array(w) for w in run.network.weights]


def history(run_dir):
    return pd.read_csv(run_dir / "history.csv")


@pytest.fixture(scope="module")
def whole(batches, tmp_path_factory):
    """The run that is never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return km.fit(build(), batches, steps=STEPS, run_dir=folder, checkpoint_every=2)


def test_run_folder(whole):
    names = {p.name for p in whole.path.iterdir()}
    assert {"config.json", "history.csv", "checkpoints", "network.keras"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    table = history(whole.path)
    assert {"step", "segmentation", "kl", "loss"} <= set(table) and table["step"].iloc[-1] == STEPS
    assert not list(whole.path.rglob(".*"))  # nothing unfinished


def test_a_row_of_the_history_is_the_mean_of_its_steps(whole, batches, tmp_path):
    every = []

    class Watched(km.methods.KLDistillation):
        def train_step(self, batch):
            terms = super().train_step(batch)
            every.append(float(terms["loss"]))
            return terms

    with km.setup(seed=3):
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = Watched(network, overlapping=True, ema=0.9)
        method.compile(keras.optimizers.Adam(1e-2))
    method.total_steps = STEPS
    for _, batch in zip(range(STEPS), batches.from_step(0), strict=False):
        method.train_step(batch)
    pairs = np.reshape(every, (3, 2)).mean(axis=1)  # a checkpoint, and a row, every two steps
    np.testing.assert_allclose(history(whole.path)["loss"], pairs, rtol=1e-3)


def test_tensorboard_has_every_value_two_checkpoints_stay_and_a_tenth_is_validated(
    batches, tmp_path
):
    dice = [0.1 * n for n in range(1, 11)]
    left = iter(dice)
    km.fit(
        build(),
        batches,
        steps=20,
        run_dir=tmp_path,
        checkpoint_every=5,
        validation=lambda _: {"dice": next(left)},
    )
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000015.npz", "step-00000020.npz"]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    shown = [value for event in summary_iterator(str(events)) for value in event.summary.value]
    assert {value.tag for value in shown} == set(history(tmp_path)) - {"step"}
    values = [float(tf.make_ndarray(v.tensor)) for v in shown if v.tag == "dice"]
    np.testing.assert_allclose(values, dice, rtol=1e-6)


def test_load_gives_back_network_task_and_preprocessing(whole, batches):
    run = km.load(whole.path)
    assert run.task == batches.task and run.preprocessing == batches.preprocessing
    for a, b in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_seed_same_bits(whole, batches, tmp_path):
    again = km.fit(build(), batches, steps=STEPS, run_dir=tmp_path, checkpoint_every=100)
    for a, b in zip(weights(again), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_interrupted_run_leaves_a_checkpoint_and_resumes_bit_for_bit(
    whole, batches, tmp_path, stop_at
):
    with pytest.raises(KeyboardInterrupt):
        km.fit(build(), stop_at(batches, 4), steps=STEPS, run_dir=tmp_path, checkpoint_every=100)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003.npz"]
    run = km.fit(build(), batches, steps=STEPS, run_dir=tmp_path, checkpoint_every=100)
    for a, b in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path)["step"].tolist() == [3, 6]


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_resumes_bit_for_bit(batches, tmp_path, precision, stop_at):
    whole = km.fit(build(precision=precision), batches, steps=4, run_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        km.fit(build(precision=precision), stop_at(batches, 3), steps=4, run_dir=tmp_path / "cut")
    cut = km.fit(build(precision=precision), batches, steps=4, run_dir=tmp_path / "cut")
    for a, b in zip(weights(cut), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import numpy as np, pickle
import keras_meduda as km
from keras_meduda.run import folder as run_folder
from keras_meduda.run import training
from test_training import build, STEPS

with open({batches!r}, "rb") as file:
    batches = pickle.load(file)
moment, kill = {moment!r}, lambda: os.kill(os.getpid(), signal.SIGKILL)

if moment == "between checkpoints":
    advance = training.StepBar.advance
    training.StepBar.advance = lambda self, step: kill() if step == 5 else advance(self, step)
elif moment == "during a write":
    savez = np.savez
    def half(file, **arrays):
        if "step-00000004" in str(file):
            savez(file, **arrays)
            with open(file, "r+b") as written:
                written.truncate(os.path.getsize(file) // 2)
            kill()
        savez(file, **arrays)
    run_folder.np.savez = half
elif moment == "after a write":
    save = run_folder.RunFolder.save
    def saved(self, method, best):
        save(self, method, best)
        if int(method.step) == 4:
            kill()
    run_folder.RunFolder.save = saved
km.fit(build(), batches, steps=STEPS, run_dir={folder!r}, checkpoint_every=2)
"""


@pytest.mark.parametrize(
    ("moment", "resumes_at"),
    [("between checkpoints", 4), ("during a write", 2), ("after a write", 4)],
)
def test_killed_run_resumes_bit_for_bit(whole, batches, tmp_path, moment, resumes_at):
    import pickle

    stored = tmp_path / "batches.pickle"
    stored.write_bytes(pickle.dumps(batches))
    code = KILLED.format(
        tests=os.path.dirname(__file__),
        batches=str(stored),
        moment=moment,
        folder=str(tmp_path / "run"),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    steps = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*.npz"))
    assert steps[-1] == f"step-{resumes_at:08d}.npz"
    run = km.fit(build(), batches, steps=STEPS, run_dir=tmp_path / "run", checkpoint_every=2)
    for a, b in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path / "run")["step"].tolist() == history(whole.path)["step"].tolist()


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: bytes(len(b)), lambda b: b""])
def test_damaged_checkpoint_is_passed_over(whole, batches, tmp_path, capsys, damage):
    km.fit(build(), batches, steps=STEPS, run_dir=tmp_path, checkpoint_every=2)
    newest = tmp_path / "checkpoints" / f"step-{STEPS:08d}.npz"
    newest.write_bytes(damage(newest.read_bytes()))
    run = km.fit(build(), batches, steps=STEPS, run_dir=tmp_path, checkpoint_every=2)
    assert "step-00000006.npz is not readable" in capsys.readouterr().out
    for a, b in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_not_trained_again(whole, batches):
    before = whole.path.joinpath("history.csv").read_text()
    run = km.fit(build(), batches, steps=STEPS, run_dir=whole.path, checkpoint_every=2)
    assert run.path.joinpath("history.csv").read_text() == before


def test_fewer_steps_in_the_same_folder_are_refused_in_one_line(whole, batches):
    with pytest.raises(ValueError, match="holds a run of 6 steps; 5 are fewer") as refused:
        km.fit(build(), batches, steps=5, run_dir=whole.path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_a_finished_run_is_extended_and_says_what_its_schedule_does(batches, tmp_path, capsys):
    """The first steps stay; from there on the learning rate is that of the new number of steps."""

    def method(steps):
        made = build()
        made.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, steps)))
        return made

    km.fit(method(2), batches, steps=2, run_dir=tmp_path)
    (before,) = history(tmp_path).to_dict("records")
    run = km.fit(method(4), batches, steps=4, run_dir=tmp_path)
    rows = history(tmp_path)
    assert rows["step"].tolist() == [2, 4] and rows.to_dict("records")[0] == before
    assert "extended from 2 to 4 steps" in capsys.readouterr().out
    config = json.loads((run.path / "config.json").read_text())
    (entry,) = config["extended"]
    assert config["steps"] == 4 and entry["at_step"] == 2
    rates = entry["learning_rate"]
    np.testing.assert_allclose([rates["before"], rates["after"]], [0, 0.005], atol=1e-8)
    km.fit(method(4), batches, steps=4, run_dir=tmp_path)  # which changes nothing
    assert json.loads((run.path / "config.json").read_text()) == config
    slower = method(6)
    slower.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 6)))
    with pytest.raises(ValueError, match="initial_learning_rate: 0.01 there, 0.1 now"):
        km.fit(slower, batches, steps=6, run_dir=tmp_path)


def test_another_setting_of_the_method_is_refused_too(whole, batches):
    with pytest.raises(ValueError, match=r"other settings \(settings.ema: 0.9 there, 0.5 now\)"):
        km.fit(build(ema=0.5), batches, steps=STEPS, run_dir=whole.path)


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(whole, batches, tmp_path):
    folder = shutil.copytree(whole.path, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["guard"], config["training"]
    config["weights"] = "as an earlier build named them"
    (folder / "config.json").write_text(json.dumps(config))
    km.fit(build(), batches, steps=STEPS, run_dir=folder, checkpoint_every=2)
    assert json.loads((folder / "config.json").read_text())["settings"]["guard"] is False


def test_other_data_augmentation_rate_or_first_weights_are_refused_too(whole, batches):
    def refused(method, data, name):
        with pytest.raises(ValueError, match=rf"other settings \({name}: [^;]* now\)"):
            km.fit(method, data, steps=STEPS, run_dir=whole.path)

    fewer = replace(
        batches.source, images=batches.source.images[1:], labels=batches.source.labels[1:]
    )
    refused(build(), replace(batches, source=fewer), "data.source")
    refused(build(), replace(batches, geometry=Geometry(rotation=1.0)), "data.geometry")
    faster, other = build(), build()
    faster.compile(keras.optimizers.Adam(0.5))
    refused(faster, batches, "optimizer.learning_rate")
    frozen = build()
    frozen.network.layers[1].trainable = False
    refused(frozen, batches, "training")
    other.network.set_weights([w * np.float32(1 + 1e-5) for w in other.network.get_weights()])
    refused(other, batches, "start")  # the norms of two seeds may be as near


def test_resume_false_starts_over(batches, tmp_path):
    km.fit(build(), batches, steps=2, run_dir=tmp_path)
    km.fit(build(), batches, steps=3, run_dir=tmp_path, resume=False)
    assert history(tmp_path)["step"].tolist() == [3]


def test_starting_over_takes_away_what_was_said_of_the_old_network(batches, tmp_path):
    km.fit(build(), batches, steps=1, run_dir=tmp_path)
    said = [tmp_path / "evaluation" / "adapted" / "summary.json", tmp_path / "report.html"]
    said += [tmp_path / "shares.json"]
    said[0].parent.mkdir(parents=True)
    for file in said:
        file.write_text("{}")
    km.fit(build(), batches, steps=1, run_dir=tmp_path)
    assert all(file.exists() for file in said)
    km.fit(build(), batches, steps=1, run_dir=tmp_path, resume=False)
    assert not any(file.exists() for file in said)


def test_a_nan_stops_the_run_and_names_term_and_step(batches, tmp_path, stop_at):
    class Poisoned(stop_at):
        def from_step(self, first):
            for step, batch in enumerate(self.batches.from_step(first), first + 1):
                if step == self.step:
                    target = dict(batch["target"], strong=batch["target"]["strong"] * np.nan)
                    batch = dict(batch, target=target)
                yield batch

    with pytest.raises(FloatingPointError, match="step 4: .* is nan.*last good checkpoint"):
        km.fit(build(), Poisoned(batches, 4), steps=STEPS, run_dir=tmp_path, checkpoint_every=2)
    with np.load(tmp_path / "checkpoints" / "step-00000002.npz") as arrays:
        assert all(np.isfinite(arrays[k]).all() for k in arrays.files if k != "best")


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(batches, tmp_path, monkeypatch):
    savez, (soft, hard) = np.savez, resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_room(file, **arrays):
        if "step-00000004" in str(file):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        savez(file, **arrays)

    monkeypatch.setattr(run_folder.np, "savez", no_room)
    try:
        safe = "no space left for .*-00000002.npz is whole: .* MB are free .* goes on from step 2"
        with pytest.raises(OSError, match=safe):
            km.fit(build(), batches, steps=STEPS, run_dir=tmp_path, checkpoint_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.npz"]


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError("Unable to write (errno = 28)")])
def test_a_full_disk_before_the_first_checkpoint_says_what_is_safe(tmp_path, error):
    folder = run_folder.RunFolder(tmp_path, resume=True)
    class Network:
        def _flatten_layers(self):
            return []

        def save(self, path):
            raise error

    with pytest.raises(OSError, match="no checkpoint is there yet: the same command begins anew"):
        folder.save_network(Network(), "network.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run cannot be written .*; expected --out FOLDER"):
        run_folder.RunFolder(tmp_path / "file" / "run", resume=True)


OTHER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_which_another_process_trains_is_refused(batches, tmp_path):
    """Its unfinished checkpoint stays; the lock ends with the process."""
    (unfinished := tmp_path / "checkpoints" / ".unfinished").parent.mkdir()
    unfinished.touch()
    command = [sys.executable, "-c", OTHER, unfinished.parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another training writes into this run folder"):
            km.fit(build(), batches, steps=2, run_dir=tmp_path, resume=False)
        assert unfinished.exists()
        other.kill()
    assert km.fit(build(), batches, steps=2, run_dir=tmp_path).path == tmp_path
    with run_folder.RunFolder(tmp_path, True), pytest.raises(ValueError, match="another training"):
        run_folder.RunFolder(tmp_path, resume=True)
    assert len(run_folder.RunFolder(tmp_path, resume=True, writes=False).rows) == 0


def test_a_method_goes_on_with_its_own_run_and_begins_no_other(batches, tmp_path):
    method = build()
    km.fit(method, batches, steps=2, run_dir=tmp_path / "a")
    run = km.fit(method, batches, steps=2, run_dir=tmp_path / "a")  # a notebook's cell, run again
    for a, b in zip(weights(run), method.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for changes in ({"run_dir": tmp_path / "b"}, {"run_dir": tmp_path / "a", "resume": False}):
        with pytest.raises(ValueError, match="has trained 2 steps and would begin a run in"):
            km.fit(method, batches, steps=2, **changes)
    assert (tmp_path / "a" / "network.keras").exists() and not (tmp_path / "b").exists()


def test_an_averaging_optimiser_deploys_its_average_and_goes_on_without(batches, tmp_path):
    def fit(folder, steps):
        method = build()
        method.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5))
        return method, km.fit(method, batches, steps=steps, run_dir=tmp_path / folder)

    method, run = fit("a", 4)
    averages = method.optimizer._model_variables_moving_average
    deployed = run.network.trainable_weights
    for average, weight in zip(averages, deployed, strict=True):
        np.testing.assert_allclose(average, weight, atol=1e-7)
    raw = np.load(sorted((tmp_path / "a" / "checkpoints").iterdir())[-1])
    assert not any(np.array_equal(raw[name], deployed[0]) for name in raw if "method" in name)
    again = fit("a", 4)[1]
    for a, b in zip(weights(run), weights(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sigterm_ends_a_run_like_ctrl_c(batches, tmp_path, stop_at):
    class Terminated(stop_at):
        def from_step(self, first):
            for step, batch in enumerate(self.batches.from_step(first), first + 1):
                if step == self.step:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        km.fit(build(), Terminated(batches, 3), steps=STEPS, run_dir=tmp_path)
    assert list((tmp_path / "checkpoints").glob("step-*.npz"))


def test_setup_restores_the_dtype_policy():
    with km.setup(precision="mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "half"}, "precision='half'; expected one of"),
        ({"strategy": "all"}, "strategy='all'; expected one of"),
    ],
)
def test_setup_refuses_what_it_does_not_know(settings, message):
    with pytest.raises(ValueError, match=message), km.setup(**settings):
        pass


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="run folder with config.json, found no such fo"):
        km.load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match="network.keras, found \\['config.json'\\]"):
        km.load(tmp_path)
