"""MedDistill: boxes prompt a teacher, whose soft masks teach a small network that needs neither.

System: MedDistill (BUCT-IUSRC): detector → foundation model → UNet++ student with ULWR.

DATA is a case table, a folder with images/ and masks/, or a folder of images. Cases of the split
`train` are seen without masks; `labelled` ones train the detector, the `network` teacher and, with
--supervised, the student; `test` ones are scored. Boxes come from --boxes, from --detector, or from
the masks with --jitter, which is an upper figure. Volumes are taught slice by slice, from boxes
with six corners; their student is an AERUNet on patches. Every stage goes on where it stopped.

Time and score on 2 cores (benchmarks/brain2d.md, three seeds, 300 steps): about 10 minutes; Dice of
tumours in slices 48 % with a Dice term, 46 % with the 200 masks, 85 % of GrabCut with such boxes.
Images of yours train for 1,500 steps, which take five times as long.

python scripts/train_meddistill.py                             (phantoms, GrabCut as teacher)
python scripts/train_meddistill.py --cases DATA --boxes boxes.csv --oracle
python scripts/train_meddistill.py --cases DATA --detector yolo11n.yaml --teacher sam2
python scripts/train_meddistill.py --cases DATA --teacher network     (feature term on)
python scripts/train_meddistill.py --cases VOLUMES --boxes boxes.csv --network RatLesNetV2
meduda distil --cases DATA --boxes boxes.csv --teacher sam --encoder E.onnx --decoder D.onnx
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from keras_meduda.experiment.one_domain import CaseFlags
from keras_meduda.experiment.options import (
    Bound,
    Count,
    Existing,
    Network,
    NetworkFlags,
    NotNegative,
    Options,
    Positive,
    Share,
)
from keras_meduda.experiment.prompting import TeacherFlags
from keras_meduda.experiment.shift import GridFlags


@dataclass(frozen=True, kw_only=True)
class Flags(TeacherFlags, NetworkFlags, GridFlags, CaseFlags, Options):
    """Student without masks, from a teacher that boxes prompt."""

    cases: Existing | None = None
    """Case table or folder; none: phantoms of brain slices."""
    volumes: bool = False
    """Without data: drawn brains, FLAIR, instead of slices."""
    classes: tuple[str, ...] | None = None
    """The class and its mask values; default: tumour=1,255."""
    values: tuple[int, ...] | None = None
    """Older form of --classes: the mask values alone."""
    detector: str | None = None
    """YOLO weights (.pt) that find the boxes, a model (.yaml) to train on the labelled cases, or
    the run folder of a student, whose own masks give the boxes of a second round."""
    detector_epochs: Count = 100
    """Of that training."""
    jitter: NotNegative | None = None
    """How far edges of boxes from masks are moved at random; default: 4 pixels, 2 voxels."""
    teacher_weights: str | None = None
    """Checkpoint of sam2 or sam2_keras, or the run folder of network; none: trained on labelled
    cases."""
    calibrate: bool = False
    """Fit the temperature of the teacher's masks on the labelled cases, from which nothing else may
    learn then."""
    ulwr: Literal["original", "entropy", "kendall", "dwa"] = "original"
    """How mask and feature level are weighed (see FoundationDistillation)."""
    fixed_weights: tuple[Share, Share, Share] | None = None
    """Fixed weights of BCE, MSE and feature term, instead of --ulwr."""
    refine: Annotated[float, Bound(0)] = 0.0
    """Co-learning: how far the student's moving average replaces the teacher's mask at the end, in
    images in which the two agree above 0.5."""
    dice: Share = 1.0
    """Weight of a Dice term beside the published ones, which alone are slow to see what is small
    (benchmarks/brain2d.md); 0 is the published loss."""
    supervised: bool = False
    """Also learn from the masks of the labelled cases."""
    oracle: bool = False
    """Also train on the masks of the train cases, as the upper end of the comparison."""
    legacy: bool = False
    """Also score as the original does (logits cut at ½)."""
    out: Path = Path("runs/meddistill")
    """Run folder."""
    steps: Count | None = None
    """Updates of each network; default: 1500, 300 on phantoms."""
    network: Network | None = None
    """The student, one of km.models; default: UNetPlusPlus of pictures, AERUNet of volumes."""
    batch_size: Count | None = None
    """Images in a batch: pictures, 8 by default, or patches of volumes, 2."""
    size: tuple[Count, ...] = ()
    """The network's grid: pixels a side, 96 by default, or voxels from left to right, back to front
    and bottom to top, 144 176 160."""
    patch: tuple[Count, ...] | None = None
    """Of volumes: what the network sees at once; the rest is predicted by a sliding window.
    Default: 64 64 64 voxels of the grid."""
    filters: tuple[Count, ...] | None = None
    """Width of each level; default: 16 32 64 128 of UNetPlusPlus, of which the original has 32 64
    128 256 512, and of AERUNet; another network's own."""
    deep_supervision: bool = False
    """Train heads at every depth, so that the network can be pruned (docs/distil.md)."""
    learning_rate: Positive = 1e-3
    """Of the first step; it falls to zero as a cosine."""


def data(flags):
    """Train cases without masks, labelled ones, and those that are tested."""
    from keras_meduda.experiment.teaching import read

    return read(flags)


def recipe(flags, data):
    """The network teacher where one is to be trained, the student, and the oracle on request."""
    from functools import partial

    import keras_meduda as km
    from keras_meduda.data.cases import are_volumes
    from keras_meduda.experiment.recipe import Recipe, Stage, adam, supervised
    from keras_meduda.experiment.teaching import teach

    if flags.smoke:
        flags = replace(flags, steps=12, batch_size=2)
    build = _student(flags, are_volumes(data.prompted))
    grid = flags.grid(data, build.func.needs, side=96, normalise="zero_one")
    compile_alone = adam(flags.learning_rate, flags.encoder_rate)
    alone = Stage(supervised, compile=compile_alone, prepare=flags.prepare)

    def method(network, batches):
        teacher = batches.target.teacher
        width = teacher.feature_shape[-1] if teacher.features else None
        if width is None:
            print("the teacher gives no embedding: no feature term, weights of the other two")
        weights = flags.fixed_weights or flags.ulwr
        return km.methods.FoundationDistillation(
            network, width, weights, refine=flags.refine, dice=flags.dice
        )

    stages = {}
    if flags.teacher == "network" and not flags.teacher_weights:
        stages["teacher"] = replace(alone, uses=("few",))
    student = ("few", "taught") if flags.supervised else ("taught",)
    stages["student"] = replace(alone, method=method, uses=student)
    if flags.oracle:
        stages["oracle"] = replace(alone, uses=("oracle",))
    return Recipe(
        title=f"MedDistill: student of {flags.teacher}",
        network=build,
        preprocessing=grid.preprocessing,
        stages=stages,
        steps=flags.steps or (300 if flags.drawn else 1500),
        batch_size=flags.batch_size or (2 if grid.volumes else 8),
        batches={**grid.batches, "photometry": None},
        window=grid.window,
        teacher=partial(teach, flags),
        notes=partial(notes, flags),
        facts={"Teacher": flags.teacher},
    )


def _student(flags, volumes):
    """The builder of the student, which the network teacher and the oracle share."""
    from keras_meduda.experiment.networks import builder_of

    name = flags.network or ("AERUNet" if volumes else "UNetPlusPlus")
    ours = name in ("AERUNet", "UNetPlusPlus")
    return builder_of(
        name, 3 if volumes else 2, flags.smoke, backbone=flags.backbone, weights=flags.weights,
        filters=flags.filters or ((16, 32, 64, 128) if ours else None),
        deep_supervision=flags.deep_supervision or None,
    )  # fmt: skip


def notes(flags, run, cases, frame, folder):
    """What the teacher sees, both ones' time and size, and the original's scores on request."""
    import time

    import numpy as np

    from keras_meduda.evaluation.legacy import evaluate_meddistill
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.experiment.teaching import size_of, teacher_files
    from keras_meduda.teachers.targets import open_targets, read_target

    if flags.teacher != "network":
        yield "The teacher sees a box around what it is to find, the student does not."
    start = time.perf_counter()
    list(predict_all(run, list(cases["image"])))
    seconds = (time.perf_counter() - start) / len(cases)
    yield (
        f"Student: {1000 * seconds:.0f} ms an image, reading and resizing included; "
        f"{run.network.count_params():,} parameters, {size_of([run.path / 'network.keras'])}."
    )
    table = open_targets(flags.out / "teaching" / "targets.csv")
    taught = [read_target(table, case) for case in cases["case"]]
    times = [target.seconds for target in taught if target and target.seconds]
    took = f"{1000 * np.mean(times):.0f} ms an image" if times else "of an unknown time"
    yield f"Teacher {flags.teacher}: {took}, reading included; {size_of(teacher_files(flags))}."
    if flags.legacy:
        means = evaluate_meddistill(run, cases, run.task).mean(numeric_only=True)
        yield "As the original scores: " + " ".join(f"{k} {v:.4f}" for k, v in means.items())
