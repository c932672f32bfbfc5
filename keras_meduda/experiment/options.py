"""What every experiment is asked for beside its recipe and its data."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal


@dataclass(frozen=True)
class Bound:
    """The smallest value that a number may have, written beside it: `Annotated[int, Bound(1)]`.

    Args:
        least: the bound.
        above: whether the bound itself is excluded. Default `False`.
    """

    least: float
    above: bool = False

    def refuses(self, number) -> str | None:
        """What was expected, where a number is none of these; `nan` is none."""
        if number > self.least if self.above else number >= self.least:
            return None if number < float("inf") else "a finite number"
        return f"a number above {self.least}" if self.above else f"{self.least} or more"


@dataclass(frozen=True)
class There:
    """That a path leads to something, written beside it: `Annotated[Path, There()]`."""

    def refuses(self, path) -> str | None:
        """What was expected, where nothing is there."""
        return None if Path(path).exists() else "one that is there; found no such file or folder"


Count = Annotated[int, Bound(1)]
NotNegative = Annotated[int, Bound(0)]
Share = Annotated[float, Bound(0)]
Positive = Annotated[float, Bound(0, above=True)]
Existing = Annotated[Path, There()]
Network = Literal[  # of km.models; named here, as loading them takes seconds
    "AERUNet", "DeepLabV3Plus", "DynUNet", "RatLesNetV2", "UNETR", "UNet", "UNetPlusPlus",
    "UNetS5D16",
]  # fmt: skip

Backbone = Literal["mobilenetv2", "resnet50", "efficientnetv2b0", "convnexttiny"]


def nearest(name: str, known) -> str:
    """What a name may have meant, and all names that there are.

    Example:
        >>> nearest("AERUnet", ["AERUNet", "UNet"])
        'did you mean AERUNet? There are AERUNet, UNet.'
    """
    close = get_close_matches(name, known, 1)
    return f"{f'did you mean {close[0]}? ' if close else ''}There are {', '.join(known)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where an experiment goes, and what its computation is like."""

    out: Path = Path("runs/latest")
    """Run folder."""
    seed: NotNegative = 0
    """Of the split, the weights, the order and the augmentation."""
    seeds: tuple[NotNegative, ...] | None = None
    """Train once with each of these, in OUT/seed_N, on the cases and the split of --seed; ends with
    a table of mean and spread."""
    folds: Annotated[int, Bound(2)] | None = None
    """Cross-validate: split by group into so many folds, and train once for each, in OUT/fold_N,
    without the fold that is tested. Cases of a split 'test' stay out of all folds."""
    fold: NotNegative | None = None
    """Train this one of --folds alone, such as one a machine; the call without it gathers them."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network."""
    strategy: Literal["none", "mirrored", "multiworker"] = "none"
    """Over all GPUs of this machine (mirrored), or all machines of TF_CONFIG (multiworker)."""
    resume: bool = True
    """Continue what the run folder holds."""
    smoke: bool = False
    """Shrink everything: the same path in seconds, for a first try."""

    def check(self) -> None:
        """What can be said of the flags before anything heavy is loaded.

        Raises:
            ValueError: flags that contradict each other.
        """
        if self.seeds and self.folds:
            raise ValueError("--seeds with --folds; expected one of them.")
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: one of them is twice.")
        if self.fold is not None and not self.folds:
            raise ValueError("--fold needs --folds.")
        if self.folds and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"--fold {self.fold}: expected 0 to {self.folds - 1} of {self.folds}.")


@dataclass(frozen=True, kw_only=True)
class BoxFlags:
    """How the table of --boxes says where they are."""

    box_form: Literal["corners", "xywh", "centre"] = "corners"
    """Columns of --boxes: x0,y0,x1,y1, x,y,width,height (COCO) or xc,yc,width,height (YOLO)."""
    box_unit: Literal["px", "share"] = "px"
    """Pixels, or shares of the image's width and height."""


@dataclass(frozen=True, kw_only=True)
class StartFlags:
    """What a network begins with, which of its parts train, and how fast."""

    backbone: Backbone | None = None
    """Of photographs: an encoder of keras.applications in place of the network's own."""
    weights: str | None = None
    """Of the backbone: imagenet (a download), a file in keras.applications' form, or a file of the
    whole network; None starts from random weights."""
    train: str = "all"
    """What trains: head, decoder, encoder, all, or a regular expression of layer names."""
    encoder_rate: Share = 1.0
    """Share of the learning rate that the encoder gets."""
    freeze_batch_norm: bool = False
    """Keep batch norm as the network began with it."""

    def prepare(self, network) -> None:
        """Chooses what trains: the value of `Stage.prepare`.

        Raises:
            ValueError: no layer of that part.
        """
        from keras_meduda.methods.finetuning import train_only

        if self.train != "all" or self.freeze_batch_norm:
            train_only(network, self.train, self.freeze_batch_norm)

    @property
    def ranged(self) -> dict[str, str]:
        """What `Preprocessing` needs for a backbone: all of them take images in −1…1."""
        return {"normalise": "minus1_1"} if self.backbone else {}


@dataclass(frozen=True, kw_only=True)
class NetworkFlags(StartFlags):
    """Which network, and what it begins with."""

    network: Network
    """One of km.models."""

    @property
    def ranged(self) -> dict[str, str]:
        """As with a backbone for DeepLabV3Plus, which has one whatever the flags say."""
        return {"normalise": "minus1_1"} if self.network == "DeepLabV3Plus" else super().ranged
