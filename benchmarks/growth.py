"""How time, memory and disk grow with the number of cases, from checking files to the report.

python benchmarks/growth.py                         (100, 1,000 and 10,000 cases)
python benchmarks/growth.py --cases 100 1000

Each work runs in a process of its own, on hard links to twenty drawn photographs of 64 x 64, with a
small network: what is measured is what each case costs beside the network. Time is processor time,
start-up left out. The table is growth.csv, from which growth.md and growth.png are made.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
TABLE = HERE / "growth.csv"
COLUMNS = ("work", "cases", "value", "unit", "command")
WORKS = ("check", "prepare", "first_step", "step", "predict", "evaluate", "report")
DRAWN = 20  # photographs that there are; all others are links to them


def link_cases(folder, n):
    """A case table of `n` cases over two cameras, whose files are hard links to the few drawn."""
    from keras_meduda.data.cases import read_cases, write_cases
    from keras_meduda.data.phantoms import write_fundus

    if (folder / "cases.csv").exists():
        return
    drawn = read_cases(write_fundus(folder / "drawn", cases_per_domain=DRAWN // 2, size=64))
    table = drawn.iloc[[i % len(drawn) for i in range(n)]].reset_index(drop=True)
    for column in ("image", "mask"):
        (folder / column).mkdir()
        links = [str(folder / column / f"{i:05d}.png") for i in range(n)]
        for file, link in zip(table[column], links, strict=True):
            os.link(file, link)
        table[column] = links
    names = [f"{i:05d}" for i in range(n)]
    write_cases(table.assign(case=names, group=names), folder / "cases.csv")


def measure(work, folder):
    """Does a work once; returns its time, memory and disk by unit."""
    import keras

    import keras_meduda as km
    from keras_meduda.data.checks import validate
    from keras_meduda.data.pipeline import Batches, prepare
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.evaluation.report import write_evaluation, write_report
    from keras_meduda.run import Run

    task = km.Task(("cup", "disc"), True, {"cup": (255,), "disc": (128, 255)})
    preprocessing = km.Preprocessing(size=(32, 32))
    with km.setup():
        network = km.models.AERUNet((32, 32, 3), channels=2, filters=(4, 8))
    run = Run(folder / "run", network, task, preprocessing)
    images = km.read_cases(folder / "cases.csv")

    def train(steps):
        with km.setup():
            method = km.methods.Supervised(keras.models.clone_model(network), overlapping=True)
            method.compile(keras.optimizers.Adam(1e-3))
        source = prepare(images, task, preprocessing, folder / "prepared", labels=True)
        batches = Batches(batch_size=4, source=source)
        km.fit(method, batches, steps=steps, run_dir=tempfile.mkdtemp(dir=folder))

    def predict():
        for probabilities in predict_all(run, list(images["image"])):
            task.masks(probabilities)

    def report():
        import pandas as pd

        frame = pd.read_csv(folder / "frame.csv", dtype={"case": str, "group": str})
        write_evaluation(folder, "evaluation", frame)
        write_report(
            folder / "report.html",
            title="Growth",
            parts={"all cases": {"run": frame}},
            runs={"run": run},
            cases=images,
            task=task,
            facts={},
        )

    if work == "step":
        train(1)  # whose time is that of the first step, another row
    began, cpu = time.perf_counter(), time.process_time()
    if work == "check":
        validate(images, task)
    elif work == "prepare":
        prepare(images, task, preprocessing, folder / "prepared", labels=True)
    elif work == "first_step":
        train(1)
    elif work == "step":
        train(101)
    elif work == "predict":
        predict()
    elif work == "evaluate":
        frame = km.evaluate(run, images)
    else:
        report()
    seconds = time.process_time() - cpu
    if work == "evaluate":
        frame.to_csv(folder / "frame.csv", index=False)
    found = {"s CPU": seconds, "s": time.perf_counter() - began}
    from keras_meduda.progress import peak_memory

    found["MB of memory"] = peak_memory() / 1e6
    if work == "prepare":
        files = [f for f in (folder / "prepared").rglob("*") if f.is_file()]
        found["MB on disk"] = sum(f.stat().st_size for f in files) / 1e6
    if work == "report":
        found["MB on disk"] = (folder / "report.html").stat().st_size / 1e6
    return found


def write(rows):
    """Replaces these rows of the table, then makes the page and its picture."""
    from keras_meduda.data.io import replacing

    old = []
    if TABLE.exists():
        with open(TABLE, newline="") as text:
            new = {(row["work"], str(row["cases"])) for row in rows}
            old = [r for r in csv.DictReader(text) if (r["work"], r["cases"]) not in new]
    rows = sorted([*old, *rows], key=lambda r: (WORKS.index(r["work"]), int(r["cases"])))
    with replacing(TABLE) as unfinished, open(unfinished, "w", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    values = {}
    for row in rows:
        of_work = values.setdefault((row["work"], row["unit"]), {})
        of_work[int(row["cases"])] = float(row["value"])
    with replacing(TABLE.with_suffix(".md")) as unfinished:
        unfinished.write_text(page(values))
    draw(values)


def slope(points):
    """Of the line through the two largest counts on logarithmic axes: 1 is proportional."""
    (a, first), (b, last) = sorted(points.items())[-2:]
    return math.log(last / first) / math.log(b / a)


def page(values):
    """One line a work and unit, one column a count of cases."""
    counts = sorted({n for points in values.values() for n in points})
    head = " | ".join(f"{n:,}" for n in counts)
    lines = [
        "# How cost grows",
        "",
        "Generated by `python benchmarks/growth.py` from growth.csv. Photographs of 64 x 64 and a",
        "small network, so that the cost of a case beside the network shows. Time is processor",
        "time without start-up. Slope: of the line through the two largest counts on logarithmic",
        "axes; 1 is proportional, 0 is flat.",
        "",
        "![processor time over the number of cases](growth.png)",
        "",
        f"| work | unit | {head} | slope |",
        "|---|---|" + "---:|" * (len(counts) + 1),
    ]
    for (work, unit), points in values.items():
        if unit != "s":
            shown = " | ".join(f"{points[n]:.3g}" if n in points else "–" for n in counts)
            steep = f"{slope(points):.2f}" if len(points) > 1 else "–"
            lines.append(f"| {work} | {unit} | {shown} | {steep} |")
    notes = TABLE.with_name("growth_notes.md")
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    return "\n".join(lines) + "\n"


def draw(values):
    """Processor time over the number of cases, both logarithmic."""
    from matplotlib.figure import Figure

    from keras_meduda.data.io import replacing

    figure = Figure((6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for (work, unit), points in values.items():
        if unit == "s CPU":
            axes.loglog(*zip(*sorted(points.items()), strict=True), marker="o", label=work)
    low, high = axes.get_xlim()
    bottom = axes.get_ylim()[0]
    axes.loglog([low, high], [bottom, bottom * high / low], ":", color="grey", label="slope 1")
    axes.set(xlabel="cases", ylabel="processor time, s", xlim=(low, high))
    axes.legend()
    with replacing(TABLE.with_suffix(".png")) as unfinished:
        figure.savefig(unfinished, dpi=110)


def main():
    """Measures every work at every count, the small counts first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--works", nargs="+", default=WORKS, choices=WORKS)
    parser.add_argument("--folder", type=Path, help="Where the cases lie. Default: a new folder.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print("@" + json.dumps(measure(flags.child, flags.folder)))
        return
    root = flags.folder or Path(tempfile.mkdtemp())
    for n in sorted(flags.cases):
        (folder := root / str(n)).mkdir(parents=True, exist_ok=True)
        link_cases(folder, n)
        for work in flags.works:
            code = [sys.executable, __file__, "--child", work, "--folder", str(folder)]
            quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(code, capture_output=True, text=True, env=quiet)
            if done.returncode:
                raise OSError(f"{work} of {n} cases ended with {done.returncode}: {done.stderr}")
            found = json.loads(done.stdout.rpartition("@")[2])
            command = f"python benchmarks/growth.py --cases {n} --works {work}"
            rows = [
                {"work": work, "cases": n, "value": f"{v:.4g}", "unit": u, "command": command}
                for u, v in found.items()
            ]
            write(rows)
            print(f"{work}, {n} cases: {found}", flush=True)


if __name__ == "__main__":
    main()
