"""Scores of a trained run on labelled cases: Dice, IoU, HD95, ASSD, areas, with 95 % intervals.

Ends with one page to look at, `<run>/evaluation/<name>/report.html`.

python scripts/evaluate.py --run runs/latest --cases cases.csv --domain canon --split test
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.commands.prediction import PredictionFlags
from keras_meduda.experiment.options import Existing


@dataclass(kw_only=True)
class Flags(PredictionFlags):
    """Scores of a trained run on labelled cases."""

    cases: Existing
    """Case table with masks."""
    domain: str | None = None
    """Only cases of this domain."""
    split: str | None = None
    """Only cases of this split."""
    name: str = "evaluation"
    """The result goes to <run>/evaluation/<name>/, of several runs to that of the first."""
    medpy: bool = False
    """Let MedPy itself measure HD95 and ASSD: the same to 1e-6, and tens of times slower."""
    out: Path | None = None
    """Folder instead of <run>, where that cannot be written."""


def main(flags):
    """Evaluates, prints one table and writes the report."""
    import time

    from keras_meduda.data.cases import read_cases
    from keras_meduda.data.checks import checked
    from keras_meduda.data.files import check_writable

    began = time.perf_counter()
    flags.check()
    if flags.name in ("", "..") or Path(flags.name).name != flags.name:
        raise ValueError(f"--name {flags.name!r}: expected the plain name of a folder.")
    folder = flags.out or flags.run[0]
    if flags.out or folder.is_dir():  # else loading says that there is no run
        check_writable(folder, "--out")
    cases = read_cases(flags.cases)
    for column, wanted in (("domain", flags.domain), ("split", flags.split)):
        if wanted is not None:
            if wanted not in set(cases[column]):
                raise ValueError(
                    f"{flags.cases}: no case of {column} {wanted!r}; there are "
                    f"{sorted(cases[column].unique())}."
                )
            cases = cases[cases[column] == wanted]
    if unlabelled := cases["case"][cases["mask"] == ""].tolist():
        raise ValueError(
            f"{flags.cases}: {len(unlabelled)} of {len(cases)} cases have no mask to "
            f"compare with: {', '.join(unlabelled[:5])} …"
        )
    run, masks = flags.load()
    from keras_meduda.evaluation.report import (
        about_run,
        about_session,
        print_scores,
        score,
        write_evaluation,
        write_report,
    )

    preprocessing = run.preprocessing
    checked(
        cases,
        run.task,
        channels=preprocessing.channels,
        spacing=preprocessing.own_spacing,
        nan_background=preprocessing.nan_background,
    )
    frame, counts = score(run, cases, masks=masks, medpy=flags.medpy)
    which = ", ".join(part for part in (flags.domain, flags.split) if part) or "all cases"
    method = " + ".join(path.resolve().name for path in flags.run)
    print_scores(which, {method: frame}, run.task.unit)  # first: it stays where the disk is full
    try:
        write_evaluation(folder, flags.name, frame)
        page = write_report(
            folder / "evaluation" / flags.name / "report.html",
            title=f"Evaluation of {method}: {flags.cases.name}, {which}",
            parts={which: {method: frame}},
            runs={method: run},
            cases=cases,
            task=run.task,
            calibration={method: counts},
            trainings={"training": flags.run[0]},
            masks=masks,
            facts={
                "Data": f"{flags.cases}, {which}",
                "Votes": "one"
                if len(flags.run) == 1
                else f"{len(flags.run)}, each rid of small islands and holes first",
                "Postprocessing": flags.postprocess,
                "Flips": flags.flips or "none",
            }
            | about_run(run)
            | about_session(began),
        )
    except OSError as error:
        raise OSError(
            f"{error}. The scores above stand, but {folder} lacks their page; expected --out "
            "FOLDER that can be written."
        ) from error
    print(f"Per case: {page.with_name('cases.csv')}\nreport: {page}")
