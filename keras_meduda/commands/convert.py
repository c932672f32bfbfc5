"""A PyTorch state dict of an original release as a file that these networks take; without PyTorch.

python scripts/convert_torch_weights.py --checkpoint model-1 --out ratlesnet.weights.h5
python scripts/convert_torch_weights.py --checkpoint unet.pth --network unet --out unet.npz
python scripts/convert_torch_weights.py --checkpoint unetr.pth --network unetr --size 96 96 96 \
    --out unetr.weights.h5

A .weights.h5 is read by `network.load_weights`, an .npz holds the tensors under the original's
names; both by --init of `meduda train oct` and `meduda train ratlesnet`, the first of DeepLabV3+ by
--weights of `meduda train uda_clr`. Every tensor has to find its place, or nothing is
written. Networks are built with the settings of the original releases; for others see
`km.models.load_torch_weights`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_meduda.experiment.options import Count, Existing

OF_PICTURES = ("unetpp", "deeplabv3plus", "unet_s5_d16")


@dataclass
class Flags:
    """Conversion of a PyTorch state dict."""

    checkpoint: Existing
    """File of torch.save; it may hold tensors and containers, nothing else."""
    out: Path
    """File to write: .weights.h5 or .npz."""
    network: Literal[
        "ratlesnet_v2", "unet", "dynunet", "unetr", "unetpp", "deeplabv3plus", "unet_s5_d16"
    ] = "ratlesnet_v2"
    """Which network the state dict is of."""
    channels: Count = 2
    """Logit channels."""
    image_channels: Count | None = None
    """Channels of an image; default: 3 for deeplabv3plus and unet_s5_d16, 1 for the others."""
    dimensions: Literal[2, 3] | None = None
    """2 for a network of pictures, 3 for one of volumes; default: 2 for unetpp, deeplabv3plus and
    unet_s5_d16, 3 for the others."""
    size: tuple[Count, ...] = ()
    """Spatial size of the image; UNETR alone needs it."""


def build(flags):
    """The network, as its original release builds it."""
    import keras_meduda as km

    builder = {
        "ratlesnet_v2": km.models.RatLesNetV2,
        "unet": km.models.UNet,
        "dynunet": km.models.DynUNet,
        "unetr": km.models.UNETR,
        "unetpp": km.models.UNetPlusPlus,
        "deeplabv3plus": km.models.DeepLabV3Plus,
        "unet_s5_d16": km.models.UNetS5D16,
    }[flags.network]
    flat = flags.network in OF_PICTURES
    dimensions = flags.dimensions or (2 if flat else 3)
    if flat and dimensions == 3:
        raise ValueError(f"--network {flags.network} is one of pictures: expected --dimensions 2.")
    size = flags.size or (None,) * dimensions
    if len(size) != dimensions:
        raise ValueError(f"--size {flags.size}: expected {dimensions} numbers.")
    colours = 3 if flat and flags.network != "unetpp" else 1
    return builder((*size, flags.image_channels or colours), flags.channels)


def main(flags):
    """Reads, checks and writes."""
    if not flags.out.name.endswith((".weights.h5", ".npz")):
        raise ValueError(f"{flags.out}: expected a name that ends in .weights.h5 or .npz.")
    import numpy as np

    from keras_meduda.experiment.backend import load_backend

    load_backend()
    from keras_meduda.data.io import replacing
    from keras_meduda.methods.finetuning import load_checkpoint
    from keras_meduda.models.torch_weights import expected_shapes, read

    network = build(flags)
    load_checkpoint(network, flags.checkpoint)
    with replacing(flags.out) as unfinished:
        if flags.out.suffix == ".npz":
            tensors = read(flags.checkpoint)
            np.savez(unfinished, **{key: tensors[key] for key in expected_shapes(network)})
        else:
            network.save_weights(unfinished)
    print(f"{network.name}: {network.count_params():,} numbers, {flags.checkpoint} → {flags.out}")
