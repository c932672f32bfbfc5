"""Flags of a teacher of soft masks, which `meduda teach` and `meduda distil` share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_meduda.experiment.options import BoxFlags, Existing, NotNegative


@dataclass(frozen=True, kw_only=True)
class TeacherFlags(BoxFlags):
    """Who teaches, and how it is asked."""

    boxes: Existing | None = None
    """Box table of the cases (--box-form and --box-unit say what its numbers are)."""
    teacher: Literal["grabcut", "sam", "grabcut+sam", "sam2", "sam2_keras", "network"] = "grabcut"
    """Who makes the soft masks; grabcut+sam averages the two, sam2_keras needs no PyTorch."""
    encoder: Existing | None = None
    """Image encoder of sam, an ONNX file in the signature of Meta's export (the extra sam)."""
    decoder: Existing | None = None
    """Prompt and mask decoder of sam, likewise."""
    draws: NotNegative = 0
    """Copies of every box, moved by up to a tenth: their mean teaches, where they differ counts
    less, and a case whose masks agree below 0.7 is left out; 8 is a good number, 0 asks once."""

    def prompts(self, cases) -> dict | None:
        """The boxes of each case, as `boxes_by_case` gives them; `None` without --boxes.

        Raises:
            DataError: all that is wrong with the boxes and the images that they are for.
        """
        from keras_meduda.data.boxes import read_boxes
        from keras_meduda.teachers.boxes import boxes_by_case

        if self.boxes is None:
            return None
        boxes = read_boxes(self.boxes, self.box_form, self.box_unit, cases)
        return boxes_by_case(boxes, cases, self.boxes)

    def sees_volumes(self, cases) -> bool:
        """Whether the images are volumes, which a teacher of pictures is shown slice by slice.

        Raises:
            ValueError: volumes for a teacher that no boxes prompt.
        """
        from keras_meduda.data.cases import are_volumes

        volumes = are_volumes(cases)
        if volumes and self.teacher == "network":
            raise ValueError(
                f"--teacher network teaches pictures alone; received {cases['image'].iloc[0]}, a "
                "volume: expected a teacher that boxes prompt, such as --teacher grabcut."
            )
        return volumes

    def check_teacher(self, weights: Path | str | None, flag: str) -> None:
        """Refuses what the teacher would lack, and what it would not read.

        Args:
            weights: its checkpoint or run folder.
            flag: that named them.

        Raises:
            ValueError: sam without both files, or files, weights or draws that nothing reads.
        """
        files, sam = [self.encoder, self.decoder], "sam" in self.teacher.split("+")
        if not all(files) if sam else any(files):
            raise ValueError(
                f"--teacher {self.teacher} with --encoder {self.encoder} and --decoder "
                f"{self.decoder}: sam needs both ONNX files, the others have none."
            )
        if weights and self.teacher not in ("sam2", "sam2_keras", "network"):
            raise ValueError(f"--teacher {self.teacher} has no weights; expected no {flag}.")
        if self.draws and self.teacher == "network":
            raise ValueError(
                "--draws moves boxes, which --teacher network does without; expected no --draws."
            )


def together(*steps: Callable) -> list:
    """What steps give that do not depend on each other; all that is wrong with them at once.

    Args:
        *steps: functions without arguments.

    Raises:
        ValueError: the messages of all that failed; of one alone its own error.

    Example:
        >>> together(lambda: int("a"), lambda: 1, lambda: int("b"))
        Traceback (most recent call last):
        ValueError: invalid literal for int() with base 10: 'a'
        invalid literal for int() with base 10: 'b'
    """
    done, errors = [], []
    for step in steps:
        try:
            done.append(step())
        except (ValueError, OSError, ImportError) as error:
            errors.append(error)
    if len(errors) > 1:
        raise ValueError("\n".join(map(str, errors)))
    if errors:
        raise errors[0]
    return done
