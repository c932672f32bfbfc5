"""What the readers share: finding files below a root, pairing them, saying what is there."""

import re
from pathlib import Path

from keras_meduda.data.cases import case_table
from keras_meduda.data.files import is_hidden, one_name, visible_files
from keras_meduda.data.io import FORMATS, DataError, Problem, stem


def find_files(root, pattern):
    """Visible files of known formats whose path below the root matches, sorted."""
    return [
        path
        for path in visible_files(root)
        if path.name.lower().endswith(FORMATS) and re.search(pattern, relative(root, path))
    ]


def relative(root, path):
    """A path below the root, with slashes."""
    return path.relative_to(Path(root).absolute()).as_posix()


def is_tidy(root):
    """Whether the root holds `images` and `masks`."""
    return Path(root, "images").is_dir() and Path(root, "masks").is_dir()


def pairs(home, domain, folders=("images", "masks")):
    """Cases of two folders with equal stems, but for `_mask` at the end of a mask's."""
    images, masks = {}, {}
    for found, folder in zip((images, masks), folders, strict=True):
        for path in find_files(Path(home, folder), ""):
            name = one_name(stem(path))
            name = name.removesuffix("_mask") if found is masks else name
            if name in found:
                raise DataError(Problem(path, f"a second file named {name!r}", "one file a case"))
            found[name] = path
    if lost := sorted(set(masks) - set(images)):
        raise DataError(
            Problem(
                Path(home, folders[1]),
                f"{len(lost)} masks without an image: {', '.join(lost[:5])}",
                f"equal names in {folders[0]}/ and {folders[1]}/",
            )
        )
    return case_table(
        [
            {"case": name, "domain": domain, "image": path, "mask": masks.get(name, "")}
            for name, path in images.items()
        ]
    )


def class_cell(**files):
    """The mask cell of one file a class; empty where one is missing."""
    return "|".join(f"{name}={path}" for name, path in files.items()) if all(files.values()) else ""


def recognised(rows, root, looked_for):
    """The case table, or what is there instead."""
    if len(rows):
        return case_table(rows)
    root = Path(root).absolute()
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    there = [name for name in there if not is_hidden(name)]
    found = (
        f"{len(there)} entries: {', '.join(there[:8])}{' …' if len(there) > 8 else ''}"
        if there
        else "an empty folder"
        if root.is_dir()
        else "no such folder"
    )
    raise DataError(Problem(root, found, looked_for))
