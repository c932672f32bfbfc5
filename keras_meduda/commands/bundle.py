"""A trained run as one file: network, settings, model card and summaries, without a name of a case.

meduda bundle --run runs/canon --out canon.zip
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.experiment.options import Existing


@dataclass(frozen=True, kw_only=True)
class Flags:
    """A trained run as one file."""

    run: Existing
    """Run folder of a training."""
    out: Path
    """The file, ending in .zip; km.load and --run take it as they take the folder."""


def main(flags):
    """Packs the run."""
    from keras_meduda.run.bundle import bundle

    path = bundle(flags.run, flags.out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
