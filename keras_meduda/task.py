"""What is segmented: the classes, their mask values, and how probabilities become masks."""

import json
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import scipy  # whose modules load when they are used

from keras_meduda.data._cv2 import cv2
from keras_meduda.data.values import COLOUR, distances, mask_values, number_of
from keras_meduda.preprocessing import Preprocessing

__all__ = ["Preprocessing", "Task", "probabilities", "to_json"]


@dataclass(frozen=True)
class Task:
    """What is segmented: the classes, how mask files encode them, how probabilities become masks.

    A mask is handled as *labels*, one uint8 per pixel: the class index (0 is background) where
    classes exclude each other, a bit per class where they overlap. Two tasks are equal where they
    segment the same, however files encode it: `values`, `background` and `tolerance` do not count.

    Args:
        classes: names in channel order, background not among them.
        overlapping: `True` for one sigmoid a class (a cup lies inside its disc), `False` for one
            softmax with background as channel 0.
        values: the values of a mask file that belong to each class, whole numbers or colours
            `"#rrggbb"`. Default: 1, 2, … in order.
        background: the values of a mask file that belong to no class. Default `(0,)`.
        tolerance: a mask value counts as the nearest declared one within this distance, of colours
            in each of red, green and blue. Default 0.
        threshold: probability above which an overlapping class is present. Default 0.5.
        unit: unit of the distances in evaluation, `"px"` or `"mm"`. Default `"px"`.

    Raises:
        ValueError: a class without values, a value for an unknown class, a value that is both
            background and class, or one shared by classes that exclude each other; a setting out of
            its range.

    Example:
        >>> task = Task(classes=("cup", "disc"), overlapping=True,
        ...             values={"cup": (255,), "disc": (128, 255)})
        >>> task.encode(np.array([[0, 128, 255]])).tolist()
        [[0, 2, 3]]
    """

    classes: tuple[str, ...]
    overlapping: bool = False
    values: dict[str, tuple[int | str, ...]] = field(default_factory=dict, compare=False)
    background: tuple[int | str, ...] = field(default=(0,), compare=False)
    tolerance: int = field(default=0, compare=False)
    threshold: float = 0.5
    unit: str = "px"

    def __post_init__(self):
        classes = (self.classes,) if isinstance(self.classes, str) else tuple(self.classes)
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"Task: classes {list(classes)}; expected one or more distinct names.")
        values = self.values or {name: (i + 1,) for i, name in enumerate(classes)}
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "values", {k: mask_values(k, v) for k, v in values.items()})
        object.__setattr__(self, "background", mask_values("background", self.background))
        if set(self.values) != set(classes):
            raise ValueError(
                f"Task: values are given for {sorted(self.values)}, "
                f"the classes are {list(classes)}."
            )
        declared = [v for name in classes for v in self.values[name]]
        if both := sorted(set(declared) & set(self.background)):
            raise ValueError(f"Task: values {both} are both background and class.")
        if not self.overlapping and len(set(declared)) < len(declared):
            raise ValueError(
                "Task: classes that exclude each other share a mask value "
                f"({self.values}); set overlapping=True if they may overlap."
            )
        if self.overlapping and len(classes) > 8:
            raise ValueError(f"Task: at most 8 overlapping classes, received {len(classes)}.")
        if self.tolerance < 0:
            raise ValueError(f"Task: tolerance={self.tolerance}; expected 0 or more.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"Task: threshold={self.threshold}; expected a probability below 1.")
        if self.unit not in ("px", "mm"):
            raise ValueError(f"Task: unit={self.unit!r}; expected 'px' or 'mm'.")

    @property
    def channels(self) -> int:
        """Number of logit channels: the classes, and background where they exclude each other."""
        return len(self.classes) + (0 if self.overlapping else 1)

    @property
    def coloured(self) -> bool:
        """Whether some mask values are colours."""
        return max(self.label_of_value) >= COLOUR

    @property
    def label_of_value(self) -> dict[int, int]:
        """Label (class index, or bits of the overlapping classes) of every declared mask value.

        A colour is the number 2²⁴ + 0xRRGGBB, as `read_mask` finds it in a file.
        """
        labels = dict.fromkeys(map(number_of, self.background), 0)
        for i, name in enumerate(self.classes):
            for value in map(number_of, self.values[name]):
                labels[value] = labels.get(value, 0) | (1 << i) if self.overlapping else i + 1
        return labels

    @property
    def encoding(self) -> str:
        """How mask files say it, as JSON: values of each class, background, tolerance."""
        return json.dumps([self.values, self.background, self.tolerance])

    def of(self, case) -> "Task":
        """The task in the encoding of a case's own mask file.

        Args:
            case: row of a case table. Its column `encoding`, where there is one and it is not
                empty, says how the case's mask is encoded, as `encoding` gives it.
        """
        encoding = getattr(case, "encoding", "")
        if not encoding:
            return self
        values, background, tolerance = json.loads(encoding)
        return replace(self, values=values, background=background, tolerance=tolerance)

    def undeclared(self, mask) -> list[int | str]:
        """Values of a mask that the task does not declare, sorted; colours as `#rrggbb`."""
        declared = np.array(sorted(self.label_of_value))
        present = np.unique(mask)
        distance = distances(present, declared).min(axis=1)
        odd = present[~(distance <= self.tolerance)].tolist()  # so that NaN is listed too
        if not self.coloured:
            return odd
        return [f"#{value - COLOUR:06x}" if value >= COLOUR else value for value in odd]

    def encode(self, mask) -> np.ndarray:
        """Labels of a mask file's values: `(*spatial)` integers to `(*spatial)` uint8.

        Raises:
            ValueError: the mask holds values that the task does not declare.
        """
        mask = np.asarray(mask)
        present = _present(mask)
        if unknown := self.undeclared(present):
            raise ValueError(
                f"mask values {unknown[:8]} are not declared; the task knows "
                f"{self.values}, background {self.background}."
            )
        labels = self.label_of_value
        declared = np.array(sorted(labels))
        nearest = distances(present, declared).argmin(axis=1)
        codes = np.array([labels[v] for v in declared.tolist()], "uint8")
        if mask.dtype.kind != "u" or mask.dtype.itemsize > 2:
            return codes[nearest][np.searchsorted(present, mask)]
        table = np.zeros(1 << 8 * mask.dtype.itemsize, "uint8")
        table[present] = codes[nearest]
        if _is_picture(mask):
            return cv2.LUT(np.ascontiguousarray(mask), table)
        return table.take(mask)

    def one_hot(self, labels) -> np.ndarray:
        """Channels of labels: `(*spatial)` uint8 to `(*spatial, channels)` float32 of 0 and 1."""
        channel = np.arange(self.channels, dtype="uint8")
        labels = np.asarray(labels, "uint8")[..., None]
        hot = (labels >> channel) & 1 if self.overlapping else labels == channel
        return hot.astype("float32")

    def masks(self, probabilities) -> np.ndarray:
        """One boolean mask a class, `(*spatial, classes)`, of probabilities `(*spatial, channels)`.

        Overlapping classes: probability above `threshold`; else the most probable channel.
        """
        if self.overlapping:
            return np.asarray(probabilities) > self.threshold
        channels = np.moveaxis(np.asarray(probabilities), -1, 0)
        winner, best = np.zeros(channels.shape[1:], "uint8"), channels[0]
        for label, channel in enumerate(channels[1:], start=1):  # far faster than argmax of a few
            np.copyto(winner, label, where=channel > best)
            best = np.maximum(best, channel)
        return winner[..., None] == np.arange(1, self.channels, dtype="uint8")

    def labels(self, masks) -> np.ndarray:
        """Labels of boolean masks, as `encode` gives them: `(*spatial, classes)` to `(*spatial)`.

        Returns:
            uint8; of classes that exclude each other the first one counts where masks overlap.
        """
        masks = np.asarray(masks, bool)
        if self.overlapping:
            return masks.astype("uint8") @ (1 << np.arange(len(self.classes), dtype="uint8"))
        return np.where(masks.any(axis=-1), 1 + masks.argmax(axis=-1), 0).astype("uint8")

    def decode(self, masks) -> np.ndarray:
        """Mask file values of boolean masks: `(*spatial, classes)` to `(*spatial)` integers.

        Where no value stands for just these classes, the one is written that loses the fewest of
        them and then adds the fewest: a cup outside its disc is a cup in a format in which every
        cup is also disc.
        """
        if self.overlapping:
            bits = self.label_of_value
            table = [
                min(bits, key=lambda v: ((c & ~bits[v]).bit_count(), (bits[v] & ~c).bit_count()))
                for c in range(1 << len(self.classes))
            ]
        else:
            first = [self.background[0], *(self.values[name][0] for name in self.classes)]
            table = [number_of(value) for value in first]
        top = max(table)
        kind = "uint8" if top < 256 else "uint16" if top < COLOUR else "uint32"
        return np.array(table, kind)[self.labels(masks)]


def probabilities(logits, overlapping) -> np.ndarray:
    """`losses.probabilities` of an array, without Keras: no logit is too large for it.

    Args:
        logits: `(…, channels)`, real numbers.
        overlapping: whether each channel is a class on its own (sigmoid), or they exclude each
            other (softmax).

    Returns:
        Class probabilities of the same shape and type.

    Example:
        >>> probabilities(np.array([[0.0, -1000.0]]), overlapping=True).tolist()
        [[0.5, 0.0]]
        >>> probabilities(np.array([[1000.0, 1000.0]]), overlapping=False).tolist()
        [[0.5, 0.5]]
    """
    if overlapping:
        return scipy.special.expit(logits)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def to_json(setting) -> dict:
    """A Task or Preprocessing as a dictionary that JSON can hold."""
    return asdict(setting)


def _present(mask):
    """The values that a mask holds, sorted; of 8 and 16 bits without sorting its pixels."""
    if mask.dtype.kind != "u" or mask.dtype.itemsize > 2:
        return np.unique(mask)
    if _is_picture(mask):
        picture = np.ascontiguousarray(mask)
        return np.flatnonzero(cv2.calcHist([picture], [0], None, [256], [0, 256])).astype("uint8")
    seen = np.zeros(1 << 8 * mask.dtype.itemsize, bool)
    for part in np.array_split(mask.ravel(), 1 + mask.size // 2**18):  # a volume is large
        seen[part] = True
    return np.flatnonzero(seen).astype(mask.dtype)


def _is_picture(mask):
    """Whether OpenCV counts and looks up its values, in a tenth of the time that NumPy takes."""
    return mask.dtype == "uint8" and mask.ndim == 2 and mask.size > 0
