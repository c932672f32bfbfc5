"""Speed of this project beside its peers: the same work, in turns, in one run.

python scripts/benchmark.py                       (all rows; hours where peers are slow)
python scripts/benchmark.py --only clahe_512      (one row; --names lists them)
python scripts/benchmark.py --isa avx2            (as on a processor without AVX-512)
python scripts/benchmark.py --device gpu          (training steps on a GPU, as gpu_step_…; where
                                                   TensorFlow is not installed, with JAX)
python scripts/benchmark.py --page                (the page alone, of the table as it is)

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
COLUMNS = ("work", "peer", "value", "goal", "unit", "processor", "command")
PROCESSORS = {  # in the order of the page
    "AVX-512": "A processor with AVX-512",
    "AVX2": "A processor with AVX2 alone, or told so",
    "GPU": "A GPU",
    "-": "Processors that were not noted",
}
AVX2 = {  # what tells those that listen to leave AVX-512 alone: oneDNN, PyTorch, MKL and XLA
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
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
    isa: Literal["all", "avx2"] = "all"
    """Instructions of the processor: all that it has, or AVX2 without AVX-512. ONNX Runtime and
    OpenVINO do not listen, so this is for the training steps."""
    names: bool = False
    """Print the names of the rows and stop."""
    page: bool = False
    """Make the page from the table and stop."""


def benchmark(flags):
    """Measures rows, one after the other, and writes the table after each."""
    import performance_rows as rows
    from performance_measures import MEASURES

    if flags.page:
        write_page(read())
        return
    on_gpu = [name for name in rows.ROWS if name.startswith("gpu_")]
    known = [name for name in (*rows.ROWS, *MEASURES) if name not in on_gpu]
    if flags.device == "gpu":
        known = on_gpu
    else:
        ENVIRONMENT.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    if flags.isa == "avx2":
        ENVIRONMENT.update(AVX2)
    if flags.names:
        print("\n".join(known))
        return
    if unknown := [name for name in flags.only if name not in known]:
        raise ValueError(f"--only: {unknown} are no rows; expected some of {known}.")
    for name in flags.only or known:
        if name in MEASURES:
            os.environ.update(ENVIRONMENT)  # of their processes
            found = MEASURES[name]()
        else:
            found = in_turns(name, flags)
        command = f"python scripts/benchmark.py --only {name}"
        if name not in MEASURES:
            command += f" --rounds {flags.rounds}"
        if flags.device == "gpu":
            command += " --device gpu"
        if flags.isa != "all":
            command += f" --isa {flags.isa}"
        same = {"work": name, "processor": processor(flags), "command": command}
        write([{**same, **value} for value in found])
        for value in found:
            print(f"{name}: {value['peer']} {value['value']:.4g} {value['unit']}", flush=True)


def processor(flags):
    """What computes, in a word that tells rows apart."""
    if flags.device == "gpu":
        return "GPU"
    if flags.isa == "avx2":
        return "AVX2"
    info = Path("/proc/cpuinfo")
    known = set(info.read_text().split()) if info.exists() else set()
    return "AVX-512" if "avx512f" in known else "AVX2" if "avx2" in known else "-"


def in_turns(name, flags):
    """Medians of wall and CPU time of every party that is there."""
    import performance_rows as rows

    _, peers, goals = rows.ROWS[name]
    parties = {}
    for peer in peers:
        here = peer.startswith(rows.OURS) or peer in rows.OWN_ENVIRONMENT
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
    found = []
    units = ("ms",) if name.startswith("gpu_") else ("ms", "ms CPU")  # who waits for a GPU spins
    for i, unit in enumerate(units):
        medians = {p: 1e3 * statistics.median(t[i] for t in turns) for p, turns in times.items()}
        for peer, value in medians.items():
            share, of = goals.get(peer, (None, ()))
            there = bool(of) and set(of) <= set(medians)
            goal = share * max(medians[other] for other in of) if there else None
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


def read():
    """The rows of the table, if there is one."""
    if not TABLE.exists():
        return []
    with open(TABLE, newline="") as text:
        return list(csv.DictReader(text))


def write(found):
    """Replaces the rows of these works on this processor, or on one that was not noted.

    Rows of works that are measured no more go with them. Then the page is made.
    """
    import performance_rows as rows
    from performance_measures import MEASURES

    from keras_meduda.data.io import replacing

    gone = {(row["work"], processor) for row in found for processor in (row["processor"], "-")}
    known = {*rows.ROWS, *MEASURES}
    old = [row for row in read() if (row["work"], row["processor"]) not in gone]
    old = [row for row in old if row["work"] in known]
    shown = [
        {
            **row,
            "value": f"{row['value']:.4g}",
            "goal": "-" if row["goal"] is None else f"{row['goal']:.4g}",
        }
        for row in found
    ]
    table = sorted([*old, *shown], key=lambda row: (row["work"], row["processor"]))
    with replacing(TABLE) as unfinished, open(unfinished, "w", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    write_page(table)


def write_page(table):
    """The page of a table."""
    from keras_meduda.data.io import replacing

    with replacing(TABLE.with_suffix(".md")) as unfinished:
        unfinished.write_text(page(table))


def page(table):
    """The table for people, a section a processor; each party with a goal has a line."""
    lines = [
        "# Speed",
        "",
        "Generated by `python scripts/benchmark.py` from performance.csv; lower is better. Medians",
        "of parties that take turns, the number of turns stands in the commands of the table. A",
        "goal is a share of a peer's time in the same run, or of the slowest of several parts.",
        "`bare` is a network or an engine without this library.",
    ]
    for processor, heading in PROCESSORS.items():
        if here := [row for row in table if row["processor"] == processor]:
            lines += ["", f"## {heading}", "", *section(here)]
    if NOTES.exists():
        lines += ["", NOTES.read_text().strip()]
    return "\n".join(lines) + "\n"


def section(table):
    """The lines of one processor."""
    import performance_rows as rows

    lines = [
        "| work | unit | keras_meduda | goal | met | peers (ours ÷ theirs) |",
        "|---|---|---|---|---|---|",
    ]
    for work, unit in dict.fromkeys((row["work"], row["unit"]) for row in table):
        same = {r["peer"]: r for r in table if (r["work"], r["unit"]) == (work, unit)}
        first = rows.OURS if rows.OURS in same else rows.JAX
        told = [p for p, r in same.items() if p == first or r["goal"] != "-"]
        for party in told:
            ours, peers = same[party], {p: r for p, r in same.items() if p not in told}
            value, goal = float(ours["value"]), ours["goal"]
            met = "–" if goal == "-" else "yes" if value <= float(goal) else "no"
            beside = ", ".join(
                f"{p} {r['value']} ({value / float(r['value']):.2g}×)" for p, r in peers.items()
            )
            name = work if party == first else f"{work}: {party.removeprefix(f'{rows.OURS}, ')}"
            cells = name, unit, ours["value"], goal.replace("-", "–"), met, beside or "–"
            lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    from keras_meduda.experiment.command_line import run_script

    run_script(benchmark, Flags, __doc__)
