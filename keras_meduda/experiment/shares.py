"""The classes' shares of the image, which a run folder keeps for a later adaptation."""

import json
import sys

import numpy as np

from keras_meduda.data.io import replacing
from keras_meduda.evaluation.label_free import reference_shares

NAME = "shares.json"


def write_shares(run, cases, task) -> None:
    """Writes the mean share of the image of each class in labelled cases, `{class: share}`."""
    if (run.path / NAME).exists():
        return
    shares = {name: float(np.mean(of)) for name, of in reference_shares(cases, task).items()}
    with replacing(run.path / NAME) as unfinished:
        unfinished.write_text(json.dumps(shares, indent=1))


def read_shares(run) -> tuple[float, ...] | None:
    """The shares in the order of the run's classes; `None`, with a warning, where it has none."""
    file = run.path / NAME
    if not file.exists():
        print(
            f"warning: {file} is missing, as in runs of earlier versions; the adaptation leaves "
            "out the prior on the classes' shares.",
            file=sys.stderr,
        )
        return None
    shares = json.loads(file.read_text())
    return tuple(shares[name] for name in run.task.classes)
