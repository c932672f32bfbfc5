"""Where a network starts, what of it trains, and how fast."""

import hashlib
import zipfile

import keras
import numpy as np
import pytest

import keras_meduda as km
from keras_meduda.methods.finetuning import discriminative, load_checkpoint, train_only
from keras_meduda.models import torch_weights


def network(seed=0, filters=(4, 8), name="aerunet"):
    keras.utils.set_random_seed(seed)
    net = km.models.AERUNet((32, 32, 3), channels=2, filters=filters, name=name)
    for weight in net.weights:  # batch norm starts out alike whatever the seed
        weight.assign(weight + 0.1 * np.random.default_rng(seed).normal(size=weight.shape))
    return net


def weights(net):
    return [np.array(w) for w in net.weights]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def step(net, batches, optimizer=None):
    """One supervised step; returns, by weight, whether it moved."""
    method = km.methods.Supervised(net, overlapping=True)
    method.compile(optimizer or keras.optimizers.Adam(1e-2))
    before = weights(net)
    method.train_step(next(iter(batches.from_step(0))))
    return {
        w.path: not np.array_equal(np.array(w), b) for w, b in zip(net.weights, before, strict=True)
    }


# Checkpoints


@pytest.mark.parametrize("kind", ["network.keras", "network.weights.h5", "run folder"])
def test_a_checkpoint_of_the_same_architecture_is_taken_over(tmp_path, kind):
    old, new = network(0), network(1, name="other_name")
    if kind.endswith("h5"):
        old.save_weights(tmp_path / kind)
    else:
        old.save(tmp_path / "network.keras")
    load_checkpoint(new, tmp_path if kind == "run folder" else tmp_path / kind)
    assert same(weights(old), weights(new))
    file = next(tmp_path.iterdir())
    assert new.start == f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def test_a_pytorch_checkpoint(tmp_path):
    old, new = (km.models.UNet((16, 16, 1), channels=2, filters=(4, 8)) for _ in range(2))
    shapes = torch_weights.expected_shapes(old)
    rng = np.random.default_rng(0)
    state = {key: rng.normal(size=shape).astype("float32") for key, shape in shapes.items()}
    torch_weights.load_torch_weights(old, state)
    np.savez(tmp_path / "unet.npz", **state)
    load_checkpoint(new, tmp_path / "unet.npz")
    assert same(weights(old), weights(new))


@pytest.mark.parametrize("kind", ["network.keras", "network.weights.h5"])
def test_a_checkpoint_that_does_not_fit_is_listed_and_changes_nothing(tmp_path, kind):
    old, new = network(0, filters=(4, 16)), network(1)
    (old.save if kind.endswith("keras") else old.save_weights)(tmp_path / kind)
    before = weights(new)
    with pytest.raises(ValueError) as error:
        load_checkpoint(new, tmp_path / kind)
    text = str(error.value)
    assert f"{tmp_path / kind}: " in text and "do not fit 'aerunet', which stays as it is" in text
    lines = text.splitlines()[1:]
    first = next(w for w in new.weights if 8 in w.shape)  # the layers before have the same shapes
    assert lines[0].strip() == f"{first.path}: received (3, 3, 4, 16), expected (3, 3, 4, 8)"
    assert len(lines) == 5
    assert same(weights(new), before)


def test_a_deeper_checkpoint_names_what_there_is_nothing_for(tmp_path):
    path = tmp_path / "deep.weights.h5"
    network(0, filters=(4, 8, 8)).save_weights(path)
    new = network(1, filters=(4, 8))
    with pytest.raises(ValueError, match=r"\d+ of its weights do not fit 'aerunet'"):
        load_checkpoint(new, path)


def test_weights_that_the_network_has_no_place_for(tmp_path):
    image = keras.Input((4,))
    hidden = keras.layers.Dense(3)(image)
    keras.Model(image, keras.layers.Dense(2)(hidden)).save_weights(tmp_path / "two.weights.h5")
    with pytest.raises(ValueError, match=r"dense_1/vars/0: received \(3, 2\), expected nothing"):
        load_checkpoint(keras.Model(image, hidden, name="one"), tmp_path / "two.weights.h5")


def test_a_pytorch_checkpoint_that_does_not_fit_is_named(tmp_path):
    net = km.models.UNet((16, 16, 1), channels=2, filters=(4, 8))
    np.savez(tmp_path / "w.npz", **{"model.0.conv.unit0.conv.weight": np.ones((4, 9, 3, 3))})
    with pytest.raises(
        ValueError, match=r"(?s)w.npz: Received 1 .*received shape \(4, 9, 3, 3\), expected shape"
    ):
        load_checkpoint(net, tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras", "a.pth"])
def test_a_file_that_is_no_checkpoint(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such checkpoint"):
        load_checkpoint(network(), tmp_path / name)
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=f"{name}: expected") as error:
        load_checkpoint(network(), tmp_path / name)
    assert str(error.value).count(name) == 1


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("report.txt", "no weights")
    with pytest.raises(ValueError, match="a.keras: expected .* model.weights.h5 .* found report"):
        load_checkpoint(network(), path)


# Which layers train


def test_stages_nest_and_head_is_the_classifier():
    parts, net = {}, network()
    for part in ("head", "decoder", "encoder", "all"):
        train_only(net, part)
        parts[part] = {w.path for w in net.trainable_weights}
    assert parts["head"] == {"logits/kernel", "logits/bias"}
    assert parts["head"] < parts["decoder"]
    assert not parts["decoder"] & parts["encoder"]
    assert parts["decoder"] | parts["encoder"] == parts["all"]


NETWORKS = {
    "unet": lambda: km.models.UNet((32, 32, 1), 2, filters=(4, 8, 8)),
    "unet_s5_d16": lambda: km.models.UNetS5D16((32, 32, 3), 2),
    "deeplab": lambda: km.models.DeepLabV3Plus((64, 64, 3), 2),
}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("unet", "model.1.submodule.2.0.conv", "model.2.1.conv.unit0.conv"),
        (
            "unet_s5_d16",
            "backbone.decoder.3.upsample.interp_upsample.1.conv",
            "decode_head.conv_seg",
        ),
        ("deeplab", "aspp.global_avg_pool.1", "decoder.last_conv.3"),
    ],
)
def test_the_decoder_begins_with_the_first_upsampling_or_after_the_backbone(name, first, last):
    net = NETWORKS[name]()
    train_only(net, "decoder")
    paths = [w.path.split("/")[-2] for w in net.trainable_weights]
    assert paths[0] == first and paths[-1] == last


def test_the_auxiliary_head_is_part_of_the_head():
    net = NETWORKS["unet_s5_d16"]()
    assert train_only(net, "head") == (16 + 1) * 2 + 73_986 == 74_020


def test_a_pattern_chooses_layers_by_name(capsys):
    net = km.models.UNetS5D16((32, 32, 3), 2, head="fcn")
    count = train_only(net, "^(decode|auxiliary)_head")
    assert count == 37_122 + 73_986
    assert "111,108 of 29,060,676 parameters train" in capsys.readouterr().out


def test_only_what_is_chosen_moves(batches):
    net = network()
    train_only(net, "decoder")
    trainable = {w.path for w in net.trainable_weights}
    moved = step(net, batches)
    assert {path for path, m in moved.items() if m and "moving" not in path} == trainable
    frozen = {p.split("/")[0] for p in moved} - {p.split("/")[0] for p in trainable}
    assert not any(m for path, m in moved.items() if path.split("/")[0] in frozen)


def test_frozen_batch_norm_keeps_statistics_scale_and_offset(batches):
    net = network()
    train_only(net, "all", freeze_batch_norm=True)
    moved = step(net, batches)
    norms = {path: m for path, m in moved.items() if path.startswith("batch_norm")}
    assert norms and not any(norms.values())
    assert all(m for path, m in moved.items() if path not in norms)


def test_nothing_fits():
    with pytest.raises(ValueError, match=r"no layer of 'deocder'; expected one of encoder, dec"):
        train_only(network(), "deocder")
    with pytest.raises(ValueError, match=r"'\*head' is no regular expression: nothing to repeat"):
        train_only(network(), "*head")


def test_a_fine_tuned_run_loads_whole(batches, tmp_path):
    with km.setup():
        net = network()
        train_only(net, "head")
        method = km.methods.Supervised(net, overlapping=True)
        method.compile(keras.optimizers.Adam(1e-3))
    run = km.fit(method, batches, steps=2, run_dir=tmp_path)
    assert len(run.network.trainable_weights) == len(network().trainable_weights)


# How fast


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)])
def test_a_share_of_the_rate_is_a_share_of_the_step(batches, optimizer):
    plain, slow = network(), network()
    places = {}
    for part in ("decoder", "head"):
        train_only(slow, part)
        places |= {id(w): part for w in slow.trainable_weights}
    train_only(slow, "all")
    start = [np.array(w) for w in plain.trainable_weights]
    step(plain, batches, type(optimizer).from_config(optimizer.get_config()))
    step(slow, batches, discriminative(optimizer, slow, {"head": 1.0, "decoder": 0.5, "all": 0.0}))
    for a, b, s in zip(plain.trainable_weights, slow.trainable_weights, start, strict=True):
        share = {"head": 1.0, "decoder": 0.5}.get(places.get(id(b)), 0.0)
        np.testing.assert_allclose(np.array(b) - s, share * (np.array(a) - s), atol=1e-6)


def test_a_share_that_is_negative_or_of_what_is_frozen():
    net = network()
    with pytest.raises(ValueError, match="'encoder' has the factor -1"):
        discriminative(keras.optimizers.SGD(), net, {"encoder": -1})
    train_only(net, "decoder")
    with pytest.raises(ValueError, match="'encoder' has the factor 0.1, but is frozen"):
        discriminative(keras.optimizers.SGD(), net, {"head": 1.0, "encoder": 0.1})


def test_what_a_method_trains_beside_the_network_keeps_the_rate():
    """Projection and log variances of a distillation, which come after the network's weights."""
    net = network()
    method = km.methods.FoundationDistillation(net, teacher_channels=3, ulwr="kendall")
    method.compile(discriminative(keras.optimizers.SGD(0.1), net, {"all": 0.0}))
    beside = [*method.projection.trainable_weights, method.log_variances]
    before = [np.array(w) for w in [*net.trainable_weights, *beside]]
    rng = np.random.default_rng(0)
    method.train_step({"target": {
        "image": rng.random((2, 32, 32, 3), "float32"),
        "teacher": rng.random((2, 32, 32, 2), "float32"),
        "teacher_features": rng.normal(size=(2, 8, 8, 3)).astype("float32"),
        "teacher_variance": np.full(2, 0.1, "float32"),
    }})  # fmt: skip
    after = [*net.trainable_weights, *beside]
    moved = [not np.array_equal(w, b) for w, b in zip(after, before, strict=True)]
    assert not any(moved[: -len(beside)]) and moved[-1] and moved[-len(beside)]


def test_a_run_goes_on_with_the_same_shares_alone(batches, tmp_path):
    def fit(factors):
        with km.setup():
            net, adam = network(), keras.optimizers.Adam(1e-3)
            method = km.methods.Supervised(net, overlapping=True)
            method.compile(discriminative(adam, net, factors) if factors else adam)
        km.fit(method, batches, steps=1, run_dir=tmp_path / ("shares" if factors else "none"))

    fit({"encoder": 0.1, "all": 1.0})
    fit({"encoder": 0.1, "all": 1.0})
    for other in ({"encoder": 0.5, "all": 1.0}, {"all": 1.0, "encoder": 0.1}):
        with pytest.raises(ValueError, match=r"other settings \(optimizer.factors: \[.* there, \["):
            fit(other)
    fit({})  # as a folder from before shares were recorded
    assert "factors" not in (tmp_path / "none" / "config.json").read_text()


# Partial fine-tuning of RatLesNetV2


def test_the_decoder_of_ratlesnet_is_what_the_mouse_study_trained():
    net = km.models.RatLesNetV2((4, 8, 8, 1), channels=2)
    assert train_only(net, "decoder") == 669_378
    frozen = {layer.name.split(".")[0] for layer in net.layers if layer.weights}
    frozen -= {w.path.split("/")[0].split(".")[0] for w in net.trainable_weights}
    assert frozen == {"conv1", "block1", "block2", "block3", "bottleneck1"}
    assert train_only(net, r"^(block[4-6]|bottleneck[2-4])\.") == 669_378
    assert train_only(net, "all") == 669_378 + 167_648 == 837_026


@pytest.mark.parametrize("moving", [False, True])
def test_statistics_of_frozen_batch_norm_move_on_request_alone(moving):
    net = km.models.RatLesNetV2((4, 8, 8, 1), channels=2)
    count = train_only(net, "decoder", moving_statistics=moving)
    assert count == 669_378
    method = km.methods.Supervised(net, overlapping=False)
    method.compile(keras.optimizers.Adam(1e-2))
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 8, 1)).astype("float32")
    mask = np.eye(2, dtype="float32")[(x[..., 0] > 1).astype(int)]
    before = weights(net)
    method.train_step({"source": {"image": x, "mask": mask}})
    frozen = ("conv1", "block1", "block2", "block3", "bottleneck1")
    moved = {w.path for w, b in zip(net.weights, before, strict=True) if not np.array_equal(w, b)}
    of_frozen = {path for path in moved if path.split("/")[0].split(".")[0] in frozen}
    assert all("moving" in path for path in of_frozen) and bool(of_frozen) == moving
    assert train_only(net, "all") == 837_026  # and the way back


def test_statistics_cannot_both_stay_and_move():
    with pytest.raises(ValueError, match="freeze_batch_norm keeps what moving_statistics moves"):
        train_only(network(), "all", freeze_batch_norm=True, moving_statistics=True)
