"""Speed of this project beside its peers: the same work, in turns, in one run.

python scripts/benchmark.py                       (all rows; hours where peers are slow)
python scripts/benchmark.py --only clahe_512      (one row; --names lists them)
python scripts/benchmark.py --device gpu          (training steps on a GPU, as gpu_step_…; where
                                                   TensorFlow is not installed, with JAX)

Each party works in a process of its own; they take turns, and the table holds the medians. CPU time
stands beside wall time because it suffers less from a machine that is busy with other things. Rows
that are not measured this time stay in benchmarks/performance.csv, from which performance.md is
made. Peers come with `pip install keras-meduda[bench]`; those in another environment are found with
--peers-python, and those that are not installed are named.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "performance.csv"
NOTES = ROOT / "benchmarks" / "performance_notes.md"
ROWS = ROOT / "benchmarks" / "performance_rows.py"
COLUMNS = ("work", "peer", "value", "goal", "unit", "command")
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # as keras_meduda sets it, whatever is imported first
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for a busy core cost PyTorch no CPU time
}
sys.path[:0] = [str(ROOT), str(ROWS.parent)]


@dataclass
class Flags:
    """What is measured, and where the peers are."""

    only: tuple[str, ...] = ()
    """Rows to measure. Default: all."""
    rounds: int = 5
    """Turns of each party; the median counts."""
    peers_python: Path = Path(sys.executable)
    """Interpreter of the environment that holds the peers."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where networks compute; a GPU stays unseen unless it is asked for."""
    names: bool = False
    """Print the names of the rows and stop."""


def benchmark(flags):
    """Measures rows, one after the other, and writes the table after each."""
    import performance_rows as rows
    from performance_measures import MEASURES

    on_gpu = [name for name in rows.ROWS if name.startswith("gpu_")]
    known = [name for name in (*rows.ROWS, *MEASURES) if name not in on_gpu]
    if flags.device == "gpu":
        known = on_gpu
    else:
        ENVIRONMENT.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    if flags.names:
        print("\n".join(known))
        return
    if unknown := [name for name in flags.only if name not in known]:
        raise ValueError(f"--only: {unknown} are no rows; expected some of {known}.")
    for name in flags.only or known:
        if name in MEASURES:
            found = MEASURES[name]()
        else:
            found = in_turns(name, flags)
        command = f"python scripts/benchmark.py --only {name}"
        if name not in MEASURES:
            command += f" --rounds {flags.rounds}"
        if flags.device == "gpu":
            command += " --device gpu"
        write([{"work": name, **value, "command": command} for value in found])
        for value in found:
            print(f"{name}: {value['peer']} {value['value']:.4g} {value['unit']}", flush=True)


def in_turns(name, flags):
    """Medians of wall and CPU time of every party that is there."""
    import performance_rows as rows

    _, peers, share, of = rows.ROWS[name]
    parties = {}
    for peer in peers:
        here = peer == rows.OURS or peer in rows.OWN_ENVIRONMENT
        party = Party(name, peer, sys.executable if here else flags.peers_python)
        if party.ready():
            parties[peer] = party
        else:
            print(f"{name}: {peer} is left out: {party.missing}", flush=True)
    if not {rows.OURS, rows.JAX} & set(parties):
        raise OSError(f"{name}: neither TensorFlow nor JAX is here to compute with.")
    times = {peer: [] for peer in parties}
    for _ in range(flags.rounds):
        for peer, party in parties.items():
            times[peer].append(party.turn())
    for party in parties.values():
        party.close()
    found, ours = [], rows.OURS if rows.OURS in parties else rows.JAX
    units = ("ms",) if name.startswith("gpu_") else ("ms", "ms CPU")  # who waits for a GPU spins
    for i, unit in enumerate(units):
        medians = {p: 1e3 * statistics.median(t[i] for t in turns) for p, turns in times.items()}
        for peer, value in medians.items():
            goal = share * medians[of] if peer == ours and of in medians else None
            found.append({"peer": peer, "value": value, "goal": goal, "unit": unit})
    return found


class Party:
    """A process that does one work whenever it is its turn."""

    def __init__(self, name, peer, python):
        path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        self.process = subprocess.Popen(
            [python, ROWS, name, peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)},
        )
        self.missing = None

    def ready(self):
        """Whether it has everything that it needs; waits until it has prepared."""
        answer = self._answer()
        self.missing = answer.get("missing")
        return self.missing is None

    def turn(self):
        """(wall, CPU) seconds of doing the work once."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["wall"], answer["cpu"]

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise OSError(f"{self.process.args[2:]} ended with {self.process.wait()}: run it by hand.")


def write(found):
    """Replaces the rows of these works in the table, then makes the page."""
    from keras_meduda.data.io import replacing

    old = []
    if TABLE.exists():
        with open(TABLE, newline="") as text:
            works = {row["work"] for row in found}
            old = [row for row in csv.DictReader(text) if row["work"] not in works]
    for row in found:
        row["value"] = f"{row['value']:.4g}"
        row["goal"] = "-" if row["goal"] is None else f"{row['goal']:.4g}"
    table = sorted([*old, *found], key=lambda row: row["work"])
    with replacing(TABLE) as unfinished, open(unfinished, "w", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    with replacing(TABLE.with_suffix(".md")) as unfinished:
        unfinished.write_text(page(table))
    for row in found:
        row["value"] = float(row["value"])


def page(table):
    """The table for people: one line a work and unit, each peer with its ratio."""
    import performance_rows as rows

    lines = [
        "# Speed",
        "",
        "Generated by `python scripts/benchmark.py` from performance.csv; lower is better. Medians",
        "of parties that take turns, the number of turns stands in the commands of the table. A",
        "goal is a share of a peer's time in the same run; of `gpu_step_…` see the end.",
        "",
        "| work | unit | keras_meduda | goal | met | peers (ours ÷ theirs) |",
        "|---|---|---|---|---|---|",
    ]
    for work, unit in dict.fromkeys((row["work"], row["unit"]) for row in table):
        same = {r["peer"]: r for r in table if (r["work"], r["unit"]) == (work, unit)}
        ours = same.pop(rows.OURS if rows.OURS in same else rows.JAX)
        value, goal = float(ours["value"]), ours["goal"]
        met = "–" if goal == "-" else "yes" if value <= float(goal) else "no"
        peers = ", ".join(
            f"{peer} {r['value']} ({value / float(r['value']):.2g}×)" for peer, r in same.items()
        )
        shown = goal.replace("-", "–")
        lines.append(f"| {work} | {unit} | {ours['value']} | {shown} | {met} | {peers or '–'} |")
    if NOTES.exists():
        lines += ["", NOTES.read_text().strip()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from keras_meduda.experiment.command_line import run_script

    run_script(benchmark, Flags, __doc__)
