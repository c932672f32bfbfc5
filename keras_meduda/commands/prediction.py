"""Flags that prediction and evaluation share."""

import sys
from dataclasses import dataclass
from typing import Literal

from keras_meduda.experiment.options import Existing


@dataclass(frozen=True, kw_only=True)
class PredictionFlags:
    """Flags of every script that predicts: which runs, and how their masks are made."""

    run: tuple[Existing, ...]
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
    engine: Literal["tensorflow", "onnxruntime", "openvino"] = "tensorflow"
    """What computes the network; the latter two need the extra engines. openvino is
    often the fastest on a processor."""

    def check(self):
        """Refuses folders without a run, and engines that cannot be, before anything is loaded."""
        from keras_meduda.run import chosen, settings_of
        from keras_meduda.run.engines import check_engine

        check_engine(self.engine, self.precision)
        for path in self.run:
            settings_of(path)
            if (network := chosen(path)) != path:
                print(f"{path}: with the network of {network}, as decided there", file=sys.stderr)

    def load(self):
        """The run, or the several as one, and the function from probabilities to masks."""
        from keras_meduda.evaluation import postprocess
        from keras_meduda.evaluation.ensemble import load_together
        from keras_meduda.experiment.backend import load_backend
        from keras_meduda.run.engines import suggestion

        if self.engine == "tensorflow":
            load_backend()
        if not self.xla and (hint := suggestion(self.engine, self.precision)):
            print(hint, file=sys.stderr)
        how = {"precision": self.precision, "xla": self.xla, "engine": self.engine}
        run = load_together(self.run, self.flips, **how)
        return run, postprocess.named(self.postprocess, run.task)
