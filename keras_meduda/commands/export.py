"""A trained run for serving: a SavedModel with the preprocessing inside, or ONNX, or LiteRT.

python scripts/export_savedmodel.py --run runs/latest --out model/fundus/1 --warm-up 512 512
python scripts/export_savedmodel.py --run runs/latest --out fundus.onnx      (the network alone)
python scripts/export_savedmodel.py --run runs/latest --out fundus.tflite
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.experiment.options import Count, Existing


@dataclass
class Flags:
    """A trained run for serving."""

    run: Existing
    """Run folder of a training."""
    out: Path
    """Folder of the SavedModel, whose last part is the version, such as 1; or a file whose ending
    is .onnx or .tflite, for the network without its preprocessing."""
    warm_up: tuple[Count, ...] = ()
    """Height and width, or X, Y and Z, of an image that a server tries before it takes the
    SavedModel into service (needs the extra serving)."""


def main(flags):
    """Exports, checks, and says how to look at the result."""
    from keras_meduda.experiment.backend import load_backend
    from keras_meduda.run import load, settings_of

    settings_of(flags.run)
    load_backend()
    from keras_meduda.evaluation.served import served_difference
    from keras_meduda.run.exchange import FORMATS, export_network, parity
    from keras_meduda.run.saved_model import export

    if flags.warm_up and flags.out.suffix in FORMATS:
        raise ValueError("--warm-up is for a SavedModel; leave it out for a single file.")
    run = load(flags.run)
    if flags.out.suffix in FORMATS:
        path = export_network(run, flags.out)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, preprocessing not inside")
        print(f"largest difference to the network's probabilities: {parity(run, path):.1e}")
        return
    path = export(run, flags.out, [flags.warm_up] if flags.warm_up else ())
    print(f"{path}\nsaved_model_cli show --dir {path} --all")
    difference = served_difference(run, path)
    print(f"largest difference to km.predict's probabilities, on noise: {difference:.1e}")
