"""A trained run as a SavedModel for TensorFlow Serving, preprocessing inside.

python scripts/export_savedmodel.py --run runs/latest --out serving/fundus/1
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.cli import run_script


@dataclass
class ExportFlags:
    """A trained run as a SavedModel."""

    run: Path
    """Run folder of a training."""
    out: Path
    """Folder of the SavedModel; its last part is the version, such as 1."""


def main(flags):
    """Exports and says how to look at the result."""
    from keras_meduda.saved_model import export
    from keras_meduda.training import load

    path = export(load(flags.run), flags.out)
    print(
        f"{path}\nsaved_model_cli show --dir {path} --tag_set serve --signature_def serving_default"
    )


if __name__ == "__main__":
    run_script(main, ExportFlags)
