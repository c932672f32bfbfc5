"""Segment Anything and its relatives as ONNX files: no PyTorch, in TensorFlow's own process.

Needs the extra `keras-meduda[sam]`, which is onnxruntime, and two files in the signature of Meta's
export: an encoder of images and a decoder of boxes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_meduda.data.files import DataError, Problem
from keras_meduda.teachers.boxes import as_rgb
from keras_meduda.teachers.letter_box import letter_box, undo_letter_box
from keras_meduda.teachers.targets import Teacher, of_boxes

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, 0…255
CORNERS = (2.0, 3.0)  # labels of a box's two corners
ENCODER = "one float input (batch, 3, side, side), and an output (1, channels, rows, columns)"
INPUTS = {  # of a decoder: what its name holds, and how many axes it has
    "has_mask": ("has_mask", 1),
    "mask": ("mask", 4),
    "embedding": ("embed", 4),
    "points": ("coord", 3),
    "labels": ("label", 2),
    "size": ("size", 1),
}
OUTPUTS = {"logits": "low_res", "quality": "iou"}
DECODER = (
    "Meta's: inputs image_embeddings, point_coords, point_labels, mask_input, has_mask_input, "
    "orig_im_size; outputs masks, iou_predictions, low_res_masks"
)


def sam(encoder, decoder, size: int = 1024) -> Teacher:
    """The teacher: one encoding an image, whatever the number of its boxes.

    The image is stretched to 0…255, its longest side resized to `size`, normalised and padded with
    zeros. A box is two points with the labels 2 and 3. The low-resolution logits pass a sigmoid
    and are cut to the image; the encoding is the embedding.

    Args:
        encoder: ONNX file of the image encoder.
        decoder: ONNX file of the prompt and mask decoder.
        size: side of the encoder's input where its file leaves it open. Default 1024.

    Raises:
        ImportError: onnxruntime is missing.
        DataError: files that are missing, no ONNX, or of another model; all in one list.

    Source:
        Kirillov et al., "Segment Anything", ICCV 2023.
    """
    networks, problems = {}, []
    for role, file, check in (("encoder", encoder, _encoder), ("decoder", decoder, _decoder)):
        try:
            networks[role] = check(file, _session(file), size)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    encode, decode = networks["encoder"], networks["decoder"]
    _check_pair(encode, decode)

    def segment(image, boxes):
        rgb = as_rgb(image)
        resized, scale = letter_box(rgb, encode.size)
        x = np.zeros((1, 3, encode.size, encode.size), "float32")
        normalised = (resized - np.float32(MEAN)) / np.float32(DEVIATION)
        x[0, :, : len(resized), : resized.shape[1]] = np.moveaxis(normalised, -1, 0)
        embedding = encode(x)
        points = np.reshape(boxes, (-1, 2, 2)) * scale
        logits, quality = decode(embedding, points, rgb.shape[:2])
        maps = [
            undo_letter_box(1.0 / (1.0 + np.exp(-np.clip(z, -50, 50))), rgb.shape[:2])
            for z in logits
        ]
        features = undo_letter_box(np.moveaxis(embedding[0], 0, -1), rgb.shape[:2])
        return np.stack(maps), np.clip(quality, 0, 1), features

    files = (Path(encoder), Path(decoder))
    version = ", ".join(
        f"{f.name} {hashlib.sha256(f.read_bytes()).hexdigest()[:12]}" for f in files
    )
    return of_boxes("sam", f"{version}, {encode.size} px", segment)


@dataclass(frozen=True)
class _Encoder:
    """An image encoder."""

    file: Path
    session: object
    size: int

    def __call__(self, image):
        (given,) = self.session.get_inputs()
        return self.session.run(None, {given.name: image.astype(_dtype(given))})[0].astype(
            "float32"
        )


@dataclass(frozen=True)
class _Decoder:
    """A decoder of boxes; `inputs` and `outputs` map what Meta's export calls them to names."""

    file: Path
    session: object
    inputs: dict
    outputs: dict

    def __call__(self, embedding, points, shape):
        """Low-resolution logits `(boxes, h, w)` and predicted qualities `(boxes,)`."""
        fixed = self.inputs["points"].shape[0] == 1  # Meta's export; others take many boxes
        batches = [points[i : i + 1] for i in range(len(points))] if fixed else [points]
        found = [self._run(embedding, batch, shape) for batch in batches]
        logits, quality = (np.concatenate(of_batches) for of_batches in zip(*found, strict=True))
        return logits[:, 0], quality[:, 0]  # of several masks the first is that of whole prompts

    def _run(self, embedding, points, shape):
        side = 4 * embedding.shape[-1]
        values = {
            "embedding": embedding,
            "points": points,
            "labels": np.tile(CORNERS, (len(points), 1)),
            "mask": np.zeros((1, 1, side, side)),
            "has_mask": np.zeros(1),
            "size": np.array(shape),
        }
        given = {
            node.name: np.asarray(values[role], _dtype(node)) for role, node in self.inputs.items()
        }
        return self.session.run([self.outputs["logits"], self.outputs["quality"]], given)


def _session(file):
    """A file as onnxruntime has it, on a GPU where there is one."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "The teacher sam needs onnxruntime: pip install 'keras-meduda[sam]' (on a GPU "
            "onnxruntime-gpu in its place)."
        ) from error
    if not Path(file).is_file():
        raise DataError(Problem(file, "no such file", "an ONNX file"))
    known = onnxruntime.get_available_providers()
    wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in known]
    try:
        return onnxruntime.InferenceSession(str(file), providers=wanted)
    except Exception as error:  # the parser raises several types of its own
        found = f"no ONNX that can be loaded ({' '.join(str(error).split())[:200]})"
        raise DataError(Problem(file, found, "an ONNX file")) from error


def _encoder(file, session, size):
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else ()
    fits = len(shape) == 4 and shape[1] == 3 and len(outputs[0].shape) == 4
    sides = {n for n in shape[2:] if isinstance(n, int)} or {size}
    if not fits or len(sides) > 1 or not inputs[0].type.startswith("tensor(float"):
        raise DataError(Problem(file, _signature(session), f"an image encoder: {ENCODER}"))
    return _Encoder(Path(file), session, sides.pop())


def _decoder(file, session, size):
    inputs, left = {}, list(session.get_inputs())
    for role, (word, rank) in INPUTS.items():
        named = [node for node in left if word in node.name.lower() and len(node.shape) == rank]
        inputs[role] = named[0] if named else None
        left = [node for node in left if node is not inputs[role]]
    names = [node.name for node in session.get_outputs()]
    outputs = {role: next((n for n in names if w in n), None) for role, w in OUTPUTS.items()}
    if left or None in (*inputs.values(), *outputs.values()):
        lacking = [role for role, node in {**inputs, **outputs}.items() if node is None]
        found = _signature(session)
        found += f", without {', '.join(lacking)}" if lacking else ""
        raise DataError(Problem(file, found, f"a mask decoder in the signature of {DECODER}"))
    return _Decoder(Path(file), session, inputs, outputs)


def _check_pair(encoder, decoder):
    """The decoder must read what the encoder gives, and a mask of four times its sides."""
    made, read = encoder.session.get_outputs()[0].shape, decoder.inputs["embedding"].shape
    both = [
        (a, b) for a, b in zip(made, read, strict=True) if isinstance(a, int) and isinstance(b, int)
    ]
    if any(a != b for a, b in both):
        found = f"an embedding {read} that it reads"
        raise DataError(Problem(decoder.file, found, f"{made}, which {encoder.file} gives"))
    mask = decoder.inputs["mask"].shape[2:]
    if not any(isinstance(n, int) for n in mask):
        return
    grid = [a if isinstance(a, int) else b for a, b in zip(made[2:], read[2:], strict=True)]
    if not all(isinstance(n, int) for n in grid):  # which the files leave open
        grid = encoder(np.zeros((1, 3, encoder.size, encoder.size))).shape[2:]
    wanted = [4 * n for n in grid]
    if any(isinstance(n, int) and n != m for n, m in zip(mask, wanted, strict=True)):
        found = f"a mask_input of {mask}"
        expected = f"{wanted}, four times the embedding that {encoder.file} gives"
        raise DataError(Problem(decoder.file, found, expected))


def _signature(session):
    inputs = ", ".join(f"{node.name} {node.shape}" for node in session.get_inputs())
    return f"the inputs {inputs} and outputs {', '.join(n.name for n in session.get_outputs())}"


def _dtype(node):
    """Numpy's name of an input's type."""
    name = node.type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
