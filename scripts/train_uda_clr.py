"""UDA_CLR: DeepLabV3+ adapted to an unlabelled camera by category-level regularisation.

Paper: UDA_CLR (MICCAI 2022, arXiv 2207.03684). The adaptation starts where source only started, as
published, and trains on the source in the target's colours as well (unless --no-augment-source).

python scripts/train_uda_clr.py --oracle                     (phantoms)
python scripts/train_uda_clr.py --source-dataset refuge --source-root REFUGE \
    --target-dataset drishti_gs --target-root Drishti-GS1 --weights imagenet
python scripts/train_uda_clr.py --method beal                (or posal, mean_teacher, source_only)
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from keras_meduda.cli import Flags, run_script


@dataclass
class UDACLRFlags(Flags):
    """DeepLabV3+ with category-level regularisation."""

    steps: int = 400
    """Updates of the network, in each stage; warm-up, threshold and rate are fractions of them."""
    learning_rate: float = 1e-3
    """Of Adam; a fifth of it after a fifth of the steps. The discriminators' is 2.5e-5."""
    adapt_learning_rate: float = 1e-3
    """The same for the adaptation."""
    augment_source: bool = True
    """Recolour source images, and give half of them the target's style, while adapting; else they
    are spoilt as the target's are, which is the paper's."""
    method: Literal["category_regularization", "beal", "posal", "mean_teacher", "source_only"] = (
        "category_regularization"
    )
    """The method, or one to compare it with (source_only: its source loss alone)."""
    from_source_only: bool = False
    """Adapt the network that source only left, as --init does. It depends on the shift: 72 % of the
    gap closed instead of 34 in one, -60 instead of 87 and -80 instead of -44 in two others
    (benchmarks/fundus.md)."""
    backbone: Literal["mobilenetv2", "resnet50"] = "mobilenetv2"
    """Of the network; the original has mobilenetv2."""
    weights: str | None = None
    """imagenet for the backbone's (a download), a .weights.h5 file of the whole network, as
    convert_torch_weights.py makes it, or None to train from scratch."""
    augmentation: Literal["original", "mild"] = "original"
    """The paper's (stretched axes, quarter turns, elastic, speckle, eraser), or small moves."""


def augmentation(name="original"):
    """How `Batches` augments: the paper's moves and spoiling, or `Batches`' own small moves.

    The strong view is near the paper's: its colours become more or less vivid and turn, but no
    brighter on top of the change of brightness; every change, blur too, is drawn on its own for 8
    images of 10.
    """
    from keras_meduda.data.augment import Deformation, Degradation, Photometry

    strong = Photometry(
        brightness=0.2, contrast=0.2, gamma=0, colour=0, saturation=0.3, hue=0.11, grey=0.2,
        blur=1.1, noise=0)  # fmt: skip
    if name == "mild":
        return {"photometry": strong}
    spoilt = Degradation()
    return {
        "photometry": strong,
        "geometry": Deformation(),
        "source_photometry": spoilt,
        "target_photometry": spoilt,
    }


def compile_method(method, learning_rate, steps):
    """Adam, a fifth of its rate after a fifth of the steps; SGD for the discriminators."""
    import keras

    from keras_meduda.optimizers import SGDWithL2

    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps // 5], [learning_rate, 0.2 * learning_rate]
    )
    method.compile(
        keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-8),
        discriminator_optimizer=SGDWithL2(2.5e-5, momentum=0.99, l2=5e-4),
    )


def main(flags):
    """Trains, adapts and evaluates."""
    import keras

    import keras_meduda as km
    from keras_meduda.adaptation import announce, run_study
    from keras_meduda.methods import category_regularization as clr
    from keras_meduda.study import read_study

    if flags.smoke:
        flags.size, flags.batch_size = 32, 2
    study = read_study(flags)
    preprocessing = km.Preprocessing(size=(flags.size,) * 2)
    settings = {
        "category_regularization": {},
        "beal": clr.BEAL,
        "posal": clr.POSAL,
        "mean_teacher": clr.MEAN_TEACHER,
        "source_only": clr.SOURCE_ONLY,
    }

    def network():
        return km.models.DeepLabV3Plus(
            (flags.size, flags.size, 3), study.task.channels, flags.backbone, weights=flags.weights
        )

    def method(trained):
        start = trained
        if not (flags.from_source_only or flags.init):
            keras.utils.set_random_seed(flags.seed)  # the weights that source only began with
            start = network()
        return km.methods.CategoryRegularization(
            start, study.task.overlapping, **settings[flags.method]
        )

    announce(study, preprocessing, network(), flags, styles=0, views=3)
    run_study(
        study,
        flags,
        preprocessing,
        network,
        method,
        compile_method=compile_method,
        batches={"boundary": True, **augmentation(flags.augmentation)},
        supervised=partial(km.methods.CategoryRegularization, **clr.SOURCE_ONLY),
    )


if __name__ == "__main__":
    run_script(main, UDACLRFlags)
