"""What a training loses in each way that it can end: writes crashes.csv and crashes.md.

python benchmarks/crashes.py            (minutes; every row is a real process that really ends)
python benchmarks/crashes.py --child SCENARIO FOLDER    (one of those processes)

A run of twelve steps with a checkpoint every four is ended in one way after step 6 or while step 8
is being saved, started again with the same command, and compared with a run that was left alone.
"""

import csv
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
STEPS, EVERY = 12, 4


def kill(number=signal.SIGKILL):
    """Ends this process."""
    os.kill(os.getpid(), number)


def at_step(training, step, action):
    """Has an action happen once a step is done."""
    advance = training.StepBar.advance

    def advanced(bar, number):
        advance(bar, number)
        if number == step:
            action()

    training.StepBar.advance = advanced


def while_saving(run_folder, before_rename):
    """Has the process killed while the checkpoint of step 8 is half written, or just in place."""
    savez, save = run_folder.np.savez, run_folder.RunFolder.save

    def half(file, **arrays):
        savez(file, **arrays)
        if "step-00000008" in str(file):
            os.truncate(file, os.path.getsize(file) // 2)
            kill()

    def saved(folder, method, best):
        save(folder, method, best)
        if int(method.step.numpy()) == 8:
            kill()

    if before_rename:
        run_folder.np.savez = half
    else:
        run_folder.RunFolder.save = saved


def full_disk(run_folder):
    """Has the disk end in the middle of the checkpoint of step 8: no file may grow past 20 kB."""
    savez = run_folder.np.savez

    def no_room(file, **arrays):
        if "step-00000008" in str(file):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        savez(file, **arrays)

    run_folder.np.savez = no_room


def damage_newest(folder):
    """Cuts the newest checkpoint, as a failing disk might."""
    newest = max((folder / "run" / "checkpoints").glob("step-*.npz"))
    os.truncate(newest, newest.stat().st_size // 2)


SCENARIOS = {  # steps done by then, what happens in the process, and to the folder afterwards
    "SIGKILL between checkpoints": (6, lambda t, f: at_step(t, 6, kill), None),
    "SIGKILL while a checkpoint is written": (8, lambda t, f: while_saving(f, True), None),
    "SIGKILL after a checkpoint": (8, lambda t, f: while_saving(f, False), None),
    "disk full in a checkpoint": (8, lambda t, f: full_disk(f), None),
    "Ctrl-C": (6, lambda t, f: at_step(t, 6, lambda: kill(signal.SIGINT)), None),
    "SIGTERM of a scheduler": (6, lambda t, f: at_step(t, 6, lambda: kill(signal.SIGTERM)), None),
    "newest checkpoint damaged": (10, lambda t, f: at_step(t, 10, kill), damage_newest),
}
WORKERS = {"second of two workers SIGKILLed": 1, "first of two workers SIGKILLed": 0}


def train(scenario, folder, victim):
    """One training of the phantoms, which a scenario ends."""
    import keras_meduda as km
    from keras_meduda.run import folder as run_folder
    from keras_meduda.run import training

    strategy = "multiworker" if "TF_CONFIG" in os.environ else "none"
    training.distribution.strategy(strategy)
    if scenario in SCENARIOS:
        SCENARIOS[scenario][1](training, run_folder)
    elif victim:
        at_step(training, 6, kill)
    from performance_steps import phantom_batches

    batches = phantom_batches(folder / "phantoms", size=32, batch=4)
    import keras

    with km.setup(strategy, seed=1):
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
        method = km.methods.Supervised(network, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    km.fit(method, batches, steps=STEPS, run_dir=folder / "run", checkpoint_every=EVERY)


def start(scenario, folder, victim=False, **env):
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", scenario, folder, str(int(victim))]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **env}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_workers(scenario, folder, victim=None):
    """Two workers on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    configs = [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}})
        for i in range(2)
    ]
    return [start(scenario, folder, i == victim, TF_CONFIG=c) for i, c in enumerate(configs)]


def run_all(processes):
    """Waits for processes that should succeed."""
    for process in processes:
        text = process.communicate()[0]
        if process.returncode:
            raise OSError(text.decode()[-3000:])


def weights(folder):
    """The final weights of a run, from its last checkpoint: with the optimiser's state."""
    import numpy as np

    with np.load(folder / "run" / "checkpoints" / f"step-{STEPS:08d}.npz") as arrays:
        return {name: arrays[name].tobytes() for name in arrays.files}


def resumable_step(folder):
    """The step of the newest whole checkpoint."""
    import numpy as np

    for file in sorted((folder / "run" / "checkpoints").glob("step-*.npz"), reverse=True):
        try:
            with np.load(file) as arrays:
                arrays["best"]
            return int(file.stem.removeprefix("step-"))
        except Exception:  # whatever a damaged archive raises
            continue
    return 0


def row(scenario, folder, whole):
    """Ends a run, starts it again, and says what was lost."""
    seconds = message = "-"
    if scenario in WORKERS:
        reached, victim = 6, WORKERS[scenario]
        processes = start_workers(scenario, folder, victim)
        processes[victim].communicate()
        lost = time.perf_counter()
        text = processes[1 - victim].communicate()[0].decode()
        seconds = f"{time.perf_counter() - lost:.1f}"
        message = text.strip().splitlines()[-1].split(". The last")[0]
    else:
        reached, _, damage = SCENARIOS[scenario]
        start(scenario, folder).communicate()
        if damage:
            damage(folder)
    kept = resumable_step(folder)
    unfinished = len(list((folder / "run").rglob(".*")))
    run_all(start_workers("none", folder) if scenario in WORKERS else [start("none", folder)])
    return {
        "scenario": scenario,
        "steps_done": reached,
        "steps_lost": reached - kept,
        "same_bits_after_resume": weights(folder) == whole,
        "unfinished_files_left": unfinished,
        "seconds_until_others_stop": seconds,
        "what_they_say": message,
    }


def main():
    """Every scenario, then the table and its page."""
    from keras_meduda.data.io import replacing

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(4) as pool:
        alone, together = Path(scratch, "alone"), Path(scratch, "together")
        run_all([start("none", alone), *start_workers("none", together)])

        def of(scenario):
            whole = weights(together if scenario in WORKERS else alone)
            found = row(scenario, Path(scratch, scenario.replace(" ", "_")), whole)
            print(found, flush=True)
            return found

        rows = list(pool.map(of, [*WORKERS, *SCENARIOS]))
    with replacing(HERE / "crashes.csv") as file, open(file, "w", newline="") as text:
        table = csv.DictWriter(text, rows[0])
        table.writeheader()
        table.writerows(rows)
    lines = [
        "# How a run can end, and what that costs",
        "",
        "Generated by `python benchmarks/crashes.py`: a run of 12 steps with a checkpoint every 4,",
        "ended in a real process and started again with the same command.",
        "",
        "| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(str(v) for v in found.values()) + " |" for found in rows),
    ]
    with replacing(HERE / "crashes.md") as file:
        file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, scenario, folder, victim = sys.argv
        train(scenario, Path(folder), victim == "1")
    else:
        main()
