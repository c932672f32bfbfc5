"""What the scripts share: their flags, and how a user's mistake ends.

Nothing heavy is imported before the flags are parsed, so that `--help` answers at once.
"""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from keras_meduda.progress import peak_memory

DATASETS = Literal[
    "refuge", "drishti_gs", "rim_one_dl", "rim_one_r3", "fundus_rois", "brats", "folders"
]

COUNTS = (
    "steps", "epochs", "detector_epochs", "batch_size", "batch", "size", "crop", "patch", "filters",
    "warm_up", "rounds", "train_size", "channels", "image_channels",
)  # fmt: skip
AT_LEAST = {**dict.fromkeys(COUNTS, 1), "seed": 0, "jitter": 0, "patience": 0, "l2": 0, "dice": 0}
ABOVE_0 = ("learning_rate", "adapt_learning_rate", "spacing", "scale", "temperature")


@dataclass
class Flags:
    """Flags of every training script; without any data flag the script runs on phantoms."""

    cases: Path | None = None
    """Case table (CSV: case, domain, split, group, image, mask) with both domains."""
    classes: tuple[str, ...] = ("cup=255", "disc=128,255")
    """Classes and their mask values, for --cases; the default is the tidy fundus form."""
    source_domain: str | None = None
    """Domain with labels."""
    target_domain: str | None = None
    """Domain to adapt to; its labels, where there are any, serve the final evaluation alone."""
    source_dataset: DATASETS | None = None
    """Layout of --source-root, instead of a case table."""
    source_root: Path | None = None
    """Folder of the labelled data set."""
    target_dataset: DATASETS | None = None
    """Layout of --target-root; may be left out for two domains of one data set."""
    target_root: Path | None = None
    """Folder of the unlabelled data set."""
    out: Path = Path("runs/latest")
    """Run folder."""
    steps: int = 600
    """Updates of the network, in each stage."""
    batch_size: int = 8
    """Images of each domain in a batch."""
    size: int = 192
    """Side of the network's input, in pixels."""
    learning_rate: float = 1e-3
    """Of the first step; it falls to zero as a cosine."""
    adapt_learning_rate: float = 5e-4
    """The same for the adaptation."""
    augment_source: bool = False
    """Recolour source images, and give half of them the target's style, while adapting."""
    seed: int = 0
    """Of the split, the weights, the order and the augmentation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network."""
    strategy: Literal["none", "mirrored", "multiworker"] = "none"
    """Over all GPUs of this machine (mirrored), or all machines of TF_CONFIG (multiworker)."""
    init: Path | None = None
    """Run folder whose network is adapted, instead of training one on the source."""
    oracle: bool = False
    """Also train on the target's labels, as the upper end of the comparison."""
    resume: bool = True
    """Continue what the run folder holds."""
    smoke: bool = False
    """Shrink everything: the same path in seconds, for a first try."""


@dataclass(kw_only=True)
class PredictionFlags:
    """Flags of every script that predicts: which runs, and how their masks are made."""

    run: tuple[Path, ...]
    """Run folder of a training; several vote, each rid of small islands and holes."""
    flips: str = ""
    """Axes whose mirror images are averaged, such as X or XY; k axes cost 2^k predictions."""
    postprocess: Literal["none", "beal", "islands_and_holes"] = "none"
    """Of the masks: none, or as BEAL or RatLesNetV2 do."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] | None = None
    """What the network computes in; default: as it was trained. mixed_bfloat16 is faster on GPUs
    and on processors that have it, and moves single pixels of a mask."""
    xla: bool = False
    """Compile the network by XLA, once for every size of batch; pays on a GPU."""

    def load(self):
        """The run, or the several as one, and the function from probabilities to masks."""
        from keras_meduda.evaluation import postprocess
        from keras_meduda.evaluation.ensemble import load_together

        run = load_together(self.run, self.flips, precision=self.precision, xla=self.xla)
        return run, postprocess.named(self.postprocess, run.task)


def run_script(script: Callable, flags_type: type, keras: bool = True) -> None:
    """Parses flags and runs a script; a user's mistake ends in one message and exit code 2.

    Set `MEDUDA_DEBUG=1` to see the traceback. `keras=False` is for scripts that may load PyTorch,
    which does not share a process with TensorFlow.
    """
    import tyro

    # An indented line stays one: the commands are to be copied, not filled into a paragraph.
    description = sys.modules[script.__module__].__doc__.replace("\npython ", "\n    python ")
    flags = tyro.cli(flags_type, description=description)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        _check_values(flags)
        if keras:
            _import_quietly()
        if getattr(flags, "strategy", "none") == "multiworker":
            _join_cluster()
        script(flags)
        print(f"peak memory {peak_memory() / 1e9:.2f} GB", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        _end(error)
    except Exception as error:
        name = type(error).__name__  # TensorFlow's; it may not be loaded
        if name == "ResourceExhaustedError":
            _end(f"out of memory; a smaller --batch-size or --size needs less. {str(error)[:300]}")
        if name in ("NotFoundError", "InvalidArgumentError") and "DT_HALF" in str(error):
            _end(
                "this processor lacks an operation in half precision; expected --precision float32 "
                f"or mixed_bfloat16, or a GPU. {str(error)[:300]}"
            )
        raise


def _check_values(flags):
    """Refuses numbers that mean nothing, whichever script has them, and lists without an entry."""
    for field in fields(flags):
        name, value = field.name, getattr(flags, field.name)
        if value == () and field.default:
            raise ValueError(f"--{name.replace('_', '-')}: expected one value or more.")
        for n in value if isinstance(value, tuple) else (value,):
            if not isinstance(n, int | float):
                continue
            if name in ABOVE_0 and not 0 < n < math.inf:
                expected = "a number above 0"
            elif name in AT_LEAST and not n >= AT_LEAST[name]:  # NaN is neither
                expected = f"{AT_LEAST[name]} or more"
            else:
                continue
            raise ValueError(f"--{name.replace('_', '-')} {n}: expected {expected}.")


def _end(message):
    """Exit code 2 after a message, or the traceback for who asks for it."""
    if os.environ.get("MEDUDA_DEBUG"):
        raise
    print(message, file=sys.stderr)
    sys.exit(2)


def _join_cluster():
    """Collective operations are set up before TensorFlow computes anything."""
    from keras_meduda import distribution

    distribution.strategy("multiworker")


def _import_quietly():
    """Loads Keras and its backend, whose start-up lines bypass every log level, without them."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
