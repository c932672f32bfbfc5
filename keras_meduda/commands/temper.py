"""Probabilities that can be believed: one temperature, fitted on labelled cases.

With cases of 8 patients or more the predicted Dice of `meduda predict --confidence` is calibrated.

Where a class is present above 0.5, masks stay as they are in the network's grid. The cases must not
have trained the run. Without --cases they are the test cases that the run itself has kept back:
scores on them stay honest, the calibration measured on them does not.

meduda temper --run runs/canon --cases labelled.csv --out runs/canon_tempered
meduda predict --run runs/canon_tempered --images new_images --out predictions
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from keras_meduda.commands.labelled import LabelledFlags, check_cases
from keras_meduda.experiment.options import Existing

PAGE = "reliability.html"


@dataclass(frozen=True, kw_only=True)
class Flags(LabelledFlags):
    """A temperature for a trained run."""

    run: Existing
    """Run folder of a training."""
    out: Path
    """Run folder of the same network with its temperature, and its page reliability.html."""


def main(flags):
    """Fits, says what changed, keeps the run and draws its reliability before and after."""
    from keras_meduda.data.files import check_writable
    from keras_meduda.data.parts import seen
    from keras_meduda.experiment.backend import load_backend
    from keras_meduda.run import chosen, settings_of

    task, preprocessing, _ = settings_of(flags.run)
    if (flags.out / "network.keras").exists():
        raise ValueError(f"--out {flags.out} holds a network already; expected another folder.")
    cases, table, _, task = flags.chosen(flags.run, task)
    check_cases(cases, task, preprocessing)
    check_writable(flags.out, "--out")
    if (network := chosen(flags.run)) != flags.run:
        print(f"{flags.run}: with the network of {network}, as decided there", file=sys.stderr)
    for line in seen(cases, flags.run, flags.run.resolve().name):
        print(f"warning: {line}", file=sys.stderr)
    load_backend()
    from keras_meduda.evaluation.adjust import temper
    from keras_meduda.evaluation.confidence import FEWEST, calibrate
    from keras_meduda.evaluation.report.charts import reliability_diagram
    from keras_meduda.evaluation.report.page import calibration_errors, render
    from keras_meduda.experiment.guarding import kept
    from keras_meduda.run import load
    from keras_meduda.run.bundle import unpacked

    with unpacked(flags.run) as folder:
        run = replace(load(folder), task=task)  # as these masks are encoded
        tempered = temper(run, cases)
        counts = {"before": tempered.before, "after": tempered.after}
        reason = f"Temperature {tempered.temperature:.2f}, fitted on {len(cases)} cases of {table}."
        copy = kept(tempered.run, flags.out, run, {"reason": reason})
        patients = cases["group"].nunique()
        if patients >= FEWEST:
            calibrate(copy, cases)
            reason += " Predicted Dice is calibrated on them."
        else:
            reason += f" Predicted Dice is not calibrated: {patients} of {FEWEST} patients."
    rows = [
        (row["class"], row["method"], f"{row['all']:.4f}", f"{row['likely']:.4f}")
        for row in calibration_errors(counts, task)
    ]
    print(reason)
    for name, when, of_all, likely in rows:
        print(f"{name}, {when}: calibration error {of_all} of all pixels, {likely} of likely ones")
    render(
        flags.out / PAGE,
        "runs.html",
        title=f"Reliability of {flags.run.resolve().name}",
        lead=reason,
        tables=[
            {
                "heading": "Calibration error",
                "caption": "Mean distance of probability and frequency; likely are the pixels to "
                "which the network gives more than 1/15.",
                "words": ("class", ""),
                "numbers": ("all pixels", "likely pixels"),
                "rows": rows,
            }
        ],
        charts={
            "Share of the class over its probability": reliability_diagram(counts, task.classes)
        },
        links={},
    )
    print(f"run: {flags.out}\npage: {flags.out / PAGE}")
