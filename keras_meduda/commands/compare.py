"""Several runs on the same cases: one page with scores and paired tests.

Cases are paired, differences are averaged by group (such as the patient) and tested by Wilcoxon's
signed-rank test; of several pairs of runs the p-values are Holm's. A folder of --seeds or --folds
counts as one run, whose score of a case is the mean over them. Where runs began with different
weights, each says with which.

meduda compare runs/a runs/b --out comparison
meduda compare runs/a runs/a --evaluation source_only adapted
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from keras_meduda.experiment.options import Existing


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Comparison of runs."""

    runs: tyro.conf.Positional[tuple[Existing, ...]]
    """Run folders with an evaluation, two or more; the first is what the others are tested against
    first."""
    evaluation: tuple[str, ...] = ()
    """Folder below evaluation/ of each run, or one for all; default: that of the run's network on
    its test cases."""
    out: Path = Path("comparison")
    """Folder of compare.html and compare.csv."""


def main(flags):
    """Pairs the cases, tests, prints one table and writes the page."""
    from keras_meduda.data.files import check_writable
    from keras_meduda.evaluation.report.runs import print_tests, write_comparison
    from keras_meduda.evaluation.several import chosen, start_of, unit_of

    if len(flags.runs) < 2:
        raise ValueError(f"{len(flags.runs)} run; expected two or more.")
    names = flags.evaluation or (None,)
    names = names * len(flags.runs) if len(names) == 1 else names
    if len(names) != len(flags.runs):
        raise ValueError(
            f"--evaluation names {len(names)} folders of {len(flags.runs)} runs; expected one for "
            "all, or one a run."
        )
    tables, said, places = {}, {}, {}
    for run, name in zip(flags.runs, names, strict=True):
        evaluation, table = chosen(run, name)
        label = _label(run, evaluation, flags.runs)
        if label in tables:
            raise ValueError(f"{run}: its evaluation {evaluation} is there twice.")
        tables[label], said[label], places[label] = table, evaluation, run
    units = {unit_of(run) for run in flags.runs}
    if len(units) > 1:
        raise ValueError(f"Distances are in {' and '.join(sorted(units))}; expected one unit.")
    check_writable(flags.out, "--out")
    starts = {label: start_of(run) for label, run in places.items()}
    if len(set(starts.values())) > 1:  # a better start is no better method
        said = {label: f"{text}, first weights {starts[label]}" for label, text in said.items()}
        print("\n".join(f"{label}: first weights {start}" for label, start in starts.items()))
    tests = write_comparison(flags.out, tables, units.pop(), said, places)
    print_tests(tests)
    print(f"comparison: {flags.out / 'compare.html'}")


def _label(run, evaluation, runs):
    """The shortest name that tells a run from the others."""
    if sum(run.resolve() == other.resolve() for other in runs) > 1:
        return f"{run.name}, {evaluation}"
    namesakes = sum(run.resolve().name == other.resolve().name for other in runs)
    return str(run) if namesakes > 1 else run.resolve().name
