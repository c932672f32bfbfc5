"""An experiment as an object: which networks are trained, on which cases, in which order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_meduda.data.pipeline import Batches
from keras_meduda.methods import Supervised
from keras_meduda.methods.base import Method
from keras_meduda.methods.finetuning import discriminative
from keras_meduda.task import Preprocessing, Task

LABELLED, UNLABELLED = ("source", "oracle", "few"), ("target", "taught")


def supervised(network, batches: Batches) -> Method:
    """Training on masks: the method of source only and of the oracle.

    Auxiliary logits of the network count as much as the main ones.
    """
    heads = dict.fromkeys((name for name in network.output if name.startswith("aux_")), 1.0)
    return Supervised(network, batches.task.overlapping, aux_weights=heads or None)


def adam(learning_rate: float, encoder_rate: float = 1.0) -> Callable:
    """Adam, whose learning rate falls to zero as a cosine: a value of `Stage.compile`.

    Args:
        learning_rate: of the first step.
        encoder_rate: share of it that the encoder gets. Default 1.
    """

    def compile_method(method, steps):
        optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        )
        method.compile(discriminative(optimizer, method.network, {"encoder": encoder_rate}))

    return compile_method


@dataclass(frozen=True)
class Stage:
    """One training: one call of `km.fit`.

    Args:
        method: function `(network, batches) -> Method`; `batches.task` is what is segmented.
        uses: parts of the data that train: one of `"source"`, `"oracle"` and `"few"`, which have
            labels, and one of `"target"` and `"taught"` (with a teacher's soft masks), which have
            none; or one of the five alone.
        start: the network's first weights. `"fresh"`: random ones; `"first"`: those that the first
            stage began with; the name of an earlier stage: those that it ended with.
        compile: function `(method, steps)` that gives the method its optimisers. Default Adam.
        steps: updates of the network. Default: the recipe's.
        batches: settings of `Batches` that only this stage has. Default none.
        source_styles: twins of each source image in the target's style, which replace half of the
            source images (see `style_share` of `Batches`). Default 0.
        target_styles: twins of each target image in the source's style. Default 0.
        choose_view: whether these twins are kept only where the network that the stage starts from
            agrees more with itself on them than on the target as it is. Default `False`.
        by_bands: `False` matches histograms, which keeps the order of grey levels; `True` matches
            bands by where they lie (see `data.bands`). Default `None`: by bands where R says that
            the order has changed.
        prepare: function of the network, called before the method is made, such as
            `methods.finetuning.train_only`. Default none.
        keep: arguments of `km.fit` that choose the weights: `keep`, `validate_every`, `patience`.
            They need the part `"validation"`. Default: the last weights.

    Raises:
        ValueError: parts that no batch can hold together.
    """

    method: Callable[[keras.Model, Batches], Method]
    uses: tuple[str, ...] = ("source",)
    start: str = "fresh"
    compile: Callable[[Method, int], None] = adam(1e-3)
    steps: int | None = None
    batches: dict[str, Any] = field(default_factory=dict)
    source_styles: int = 0
    target_styles: int = 0
    choose_view: bool = False
    by_bands: bool | None = None
    prepare: Callable[[keras.Model], Any] | None = None
    keep: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        counts = [sum(part in kinds for part in self.uses) for kinds in (LABELLED, UNLABELLED)]
        if max(counts) != 1 or sum(counts) != len(self.uses):
            raise ValueError(
                f"Stage: uses={self.uses}; expected one of {LABELLED}, one of {UNLABELLED}, or one "
                "of each."
            )

    @property
    def labelled(self) -> str | None:
        """The part with labels."""
        return next((part for part in self.uses if part in LABELLED), None)


@dataclass(frozen=True)
class Recipe:
    """An experiment, whole but for the cases, the seed and the folder; a variant is a `replace`.

    Args:
        title: of the report.
        network: function `(input_shape, channels) -> network`. Default: each stage starts from a
            run of `given`.
        preprocessing: how an image becomes the network's input.
        stages: by name, in their order. The last but `"oracle"` is what gets deployed.
        steps: updates of the network in each stage.
        batch_size: images of each domain in a batch.
        batches: settings of `Batches` that every stage has, such as the augmentation.
        window: `km.SlidingWindow` in which a network that trains on patches predicts.
        given: finished runs by name, such as `{"source_only": km.load(folder)}`: stages may start
            from them, and they are scored as well.
        teacher: function `(data, options, runs, chief)` that gives the table of targets of the part
            `"taught"`, or a run that teaches, see `experiment.teaching`. `chief` tells whether this
            worker writes.
        masks: function from probabilities to masks, such as a postprocessing. Default the task's.
        deploy: function from the trained run to the one that is scored, such as a vote of several.
        notes: function `(run, cases, frame, folder) -> lines` for the end of the report, called for
            each tested part; it may write files into the folder.
        facts: what was run, `{term: text}`, beside what every report says.
    """

    title: str
    preprocessing: Preprocessing
    stages: dict[str, Stage]
    network: Callable[[tuple, int], keras.Model] | None = None
    steps: int = 600
    batch_size: int = 8
    batches: dict[str, Any] = field(default_factory=dict)
    window: Any = None
    given: dict[str, Any] = field(default_factory=dict)
    teacher: Callable | None = None
    masks: Callable | None = None
    deploy: Callable = lambda run: run
    notes: Callable[..., Iterable[str]] = lambda run, cases, frame, folder: ()
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def deployed(self) -> str:
        """Name of the run that gets deployed."""
        return [name for name in (*self.given, *self.stages) if name != "oracle"][-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the network's input: a patch or a crop where it trains on such, and channels."""
        part = self.batches.get("patch") or self.batches.get("crop")
        return (*(part.size if part else self.preprocessing.size), self.preprocessing.channels)

    def build(self, task: Task) -> keras.Model:
        """The network with random weights."""
        return self.network(self.shape, task.channels)
