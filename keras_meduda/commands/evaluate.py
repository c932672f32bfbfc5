"""Scores of a trained run on labelled cases: Dice, IoU, HD95, ASSD, areas, with 95 % intervals.

Ends with one page to look at, `<run>/evaluation/<name>/report.html`. Without --cases it takes the
test cases that the run itself has kept back.

python scripts/evaluate.py --run runs/latest
python scripts/evaluate.py --run runs/latest --cases cases.csv --domain canon --split test
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from keras_meduda.commands.labelled import LabelledFlags, check_cases
from keras_meduda.commands.prediction import PredictionFlags


@dataclass(frozen=True, kw_only=True)
class Flags(LabelledFlags, PredictionFlags):
    """Scores of a trained run on labelled cases."""

    name: str | None = None
    """The result goes to <run>/evaluation/<name>/, of several runs to that of the first. Default:
    named after table, domain and split; other settings get another folder."""
    medpy: bool = False
    """Let MedPy itself measure HD95 and ASSD: the same to 1e-6; an evaluation takes 1.5
    to 3 times as long."""
    out: Path | None = None
    """Folder instead of <run>, where that cannot be written."""


def main(flags):
    """Evaluates, prints one table and writes the report."""
    import time

    from keras_meduda.data.cache import digest
    from keras_meduda.data.files import check_writable
    from keras_meduda.data.parts import seen
    from keras_meduda.run import settings_of
    from keras_meduda.run.model_card import write_model_card

    began = time.perf_counter()
    flags.check()
    if flags.name is not None and (flags.name in ("", "..") or Path(flags.name).name != flags.name):
        raise ValueError(f"--name {flags.name!r}: expected the plain name of a folder.")
    folder = flags.out or flags.run[0]
    if flags.out or folder.is_dir():  # else loading says that there is no run
        check_writable(folder, "--out")
    cases, table, split, task = flags.chosen(flags.run[0], settings_of(flags.run[0])[0])
    run, masks = flags.load()
    from keras_meduda.evaluation.report import (
        about_run,
        about_session,
        free_name,
        print_scores,
        score,
        write_evaluation,
        write_report,
    )

    check_cases(cases, task, run.preprocessing)
    known = [line for path in flags.run for line in seen(cases, path, path.resolve().name)]
    for line in known:
        print(f"warning: {line}", file=sys.stderr)
    frame, counts = score(run, cases, task, masks=masks, medpy=flags.medpy)
    domains = list(cases["domain"].unique())
    which = ", ".join(domains) if len(domains) < 5 else f"{len(domains)} domains"
    which += f", {split}" if split else ""
    method = " + ".join(path.resolve().name for path in flags.run)
    print_scores(which, {method: frame}, run.task.unit)  # first: it stays where the disk is full
    runs = [str(path.resolve()) for path in flags.run]
    how = [flags.flips, flags.postprocess, flags.precision, flags.classes, flags.tolerance]
    of = digest(runs, str(table.resolve()), flags.domain, split, how)
    try:
        name = flags.name or free_name(folder, table.stem, flags.domain or "", split or "", of=of)
        write_evaluation(folder, name, frame, of)
        if not flags.out and len(flags.run) == 1 and (folder / "README.md").exists():
            write_model_card(folder)  # of a vote the scores are not this run's
        page = write_report(
            folder / "evaluation" / name / "report.html",
            title=f"Evaluation of {method} on {which}: {table.name}",
            parts={which: {method: frame}},
            runs={method: run},
            cases=cases,
            task=task,
            calibration={method: counts},
            trainings={"training": flags.run[0]},
            masks=masks,
            facts={
                "Data": f"{table}, {which}",
                "Votes": "one"
                if len(flags.run) == 1
                else f"{len(flags.run)}, each rid of small islands and holes first",
                "Postprocessing": flags.postprocess,
                "Flips": flags.flips or "none",
            }
            | about_run(run)
            | about_session(began),
            first=tuple(known),
            tables={"cases and all metrics": "cases.csv"},
        )
    except OSError as error:
        raise OSError(
            f"{error}. The scores above stand, but {folder} lacks their page; expected --out "
            "FOLDER that can be written."
        ) from error
    print(f"Per case: {page.with_name('cases.csv')}\nreport: {page}")
