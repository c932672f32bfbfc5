"""AERUNet with KD-UDA: train on a labelled camera, adapt to an unlabelled one by KL distillation.

Paper: KD-UDA with AERUNet (thesis, Ashraf Ul Alam).

python scripts/train_aerunet_kd.py --oracle                  (phantoms)
python scripts/train_aerunet_kd.py --source-dataset refuge --source-root REFUGE \
    --target-dataset drishti_gs --target-root Drishti-GS1
python scripts/train_aerunet_kd.py --cases cases.csv --source-domain zeiss --target-domain canon
"""

from dataclasses import dataclass
from typing import Literal

from keras_meduda.cli import Flags, run_script


@dataclass
class AERUNetFlags(Flags):
    """AERUNet with KL distillation."""

    filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Width of each level; the thesis' 2D network has 32 64 128 256 512."""
    mode: Literal["style", "marginal", "plain"] = "style"
    """What the divergence compares (see KLDistillation)."""
    temperature: float = 2.0
    """Of the softened probabilities."""
    ema: float | None = 0.99
    """Decay of the averaging teacher; None keeps it frozen."""


def main(flags):
    """Trains, adapts and evaluates."""
    import keras_meduda as km
    from keras_meduda.study import announce, read_study, run_study

    if flags.smoke:
        flags.size, flags.filters = 64, (8, 16)
    study = read_study(flags)
    preprocessing = km.Preprocessing(
        size=(flags.size,) * 2, intensity=("clahe",), normalise="zero_one"
    )

    def network():
        return km.models.AERUNet((flags.size, flags.size, 3), study.task.channels, flags.filters)

    def method(trained):
        return km.methods.KLDistillation(
            trained,
            study.task.overlapping,
            mode=flags.mode,
            temperature=flags.temperature,
            ema=flags.ema,
        )

    styles = 4 if flags.mode == "style" else 0
    announce(study, preprocessing, network(), flags, styles)
    run_study(study, flags, preprocessing, network, method, styles)


if __name__ == "__main__":
    run_script(main, AERUNetFlags)
