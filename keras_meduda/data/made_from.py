"""What the files of a folder were made of, so that a second start makes only those that lack."""

import csv
import hashlib
import json
from pathlib import Path


class MadeFrom:
    """The record `made_from.csv` of a folder: a line for every file that was finished.

    Lines are added, never changed; of several of one file the last counts, and one that a full disk
    has cut counts as none.

    Args:
        folder: where the files are.

    Example:
        >>> record = MadeFrom(getfixture("tmp_path"))
        >>> record.add("mask.png", ["scan.png", 12])
        >>> record.holds("mask.png", ["scan.png", 12]), record.holds("mask.png", ["scan.png", 13])
        (True, False)
    """

    def __init__(self, folder):
        self.file, self.known = Path(folder) / "made_from.csv", {}
        if self.file.exists():
            with open(self.file, newline="", encoding="utf-8", errors="replace") as text:
                self.known = {row[0]: row[1] for row in csv.reader(text) if len(row) == 3}

    def holds(self, name: str, made_from) -> bool:
        """Whether a file was finished out of just this.

        Args:
            name: of the file, below the folder.
            made_from: what JSON can hold, such as settings and `state_of` of inputs.
        """
        return self.known.get(name) == _digest(made_from)

    def add(self, name: str, made_from) -> None:
        """A file is finished."""
        self.known[name] = _digest(made_from)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", newline="", encoding="utf-8") as text:
            csv.writer(text).writerow([name, self.known[name], "whole"])


def _digest(made_from):
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
