import math

import numpy as np
import pytest

from keras_meduda.models import UNetS5D16
from keras_meduda.models.torch_weights import expected_shapes
from keras_meduda.models.unet_s5_d16 import AdaptiveAveragePool


@pytest.mark.parametrize(("head", "total", "of_head", "keys"), [
    ("psp", 29_046_276, 22_722, ["psp_modules.0.1", "psp_modules.3.1", "bottleneck"]),
    ("fcn", 29_060_676, 37_122, ["convs.0"]),
    ("deeplabv3", 29_064_996, 41_442,
     ["image_pool.1", "aspp_modules.0", "aspp_modules.3", "bottleneck"]),
])
def test_parameters_and_keys_of_mmsegmentation(head, total, of_head, keys):
    network = UNetS5D16((None, None, 3), channels=2, head=head)
    assert sum(math.prod(variable.shape) for variable in network.trainable_weights) == total
    sizes = {key: math.prod(shape) for key, shape in expected_shapes(network).items()
             if "running" not in key}
    parts = {part: sum(size for key, size in sizes.items() if key.startswith(part))
             for part in ("backbone.", "decode_head.", "auxiliary_head.")}
    assert parts == {"backbone.": 28_949_568, "decode_head.": of_head, "auxiliary_head.": 73_986}
    assert sizes["backbone.encoder.4.1.convs.1.conv.weight"] == 1024 * 1024 * 9
    assert sizes["backbone.decoder.0.upsample.interp_upsample.1.conv.weight"] == 128 * 64
    assert sizes["backbone.decoder.3.conv_block.convs.0.conv.weight"] == 1024 * 512 * 9
    for key in keys:
        assert f"decode_head.{key}.conv.weight" in sizes and f"decode_head.{key}.bn.bias" in sizes


def test_the_auxiliary_head_speaks_at_half_the_size():
    outputs = UNetS5D16((33, 50, 1), channels=3).output
    assert outputs["logits"].shape == (None, 33, 50, 3)
    assert outputs["aux_1"].shape == (None, 17, 25, 3)
    assert "aux_1" not in UNetS5D16((33, 50, 1), channels=3, auxiliary=False).output


@pytest.mark.parametrize(("size", "bins"), [(8, 2), (7, 3), (13, 6), (3, 6), (5, 1)])
def test_adaptive_pooling_averages_the_bins(size, bins):
    image = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype("float32")

    def bounds(length):
        return [(math.floor(i * length / bins), math.ceil((i + 1) * length / bins))
                for i in range(bins)]

    expected = [[image[:, a:b, c:d].mean((1, 2)) for c, d in bounds(size + 1)]
                for a, b in bounds(size)]
    np.testing.assert_allclose(AdaptiveAveragePool(bins)(image),
                               np.transpose(expected, (2, 0, 1, 3)), atol=1e-6)


def test_another_head_is_refused():
    with pytest.raises(ValueError, match="psp, fcn, deeplabv3; received 'upernet'"):
        UNetS5D16((64, 64, 3), channels=2, head="upernet")
