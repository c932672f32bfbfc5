"""The command line: flags of a dataclass, and how a user's mistake ends.

Nothing heavy is imported before the flags are parsed, so that `--help` answers at once, nor before
the paths are looked at and the tables are read, so that a mistake in them is told at once.
"""

import importlib
import os
import re
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from keras_meduda.experiment.options import Bound, There, nearest
from keras_meduda.progress import is_out_of_memory, peak_memory, tolerate_encodings

COMMANDS = {
    "adapt": "a network to another scanner: from two domains, or from --run and --images alone",
    "train": "a recipe (train oct), or any method on any network (train --method M --network N)",
    "distil": "a large teacher into a small network, without masks",
    "predict": "masks of images from a trained run",
    "evaluate": "scores of a trained run on labelled cases",
    "temper": "probabilities that can be believed: one temperature, fitted on labelled cases",
    "compare": "several runs on the same cases: one page with paired tests",
    "export": "a trained run for serving: SavedModel, ONNX or LiteRT",
    "bundle": "a trained run as one file, for km.load and for others",
    "check": "a case table or a data set, without training",
    "boxes": "boxes around tumours, from masks",
    "rois": "square regions around the optic disc",
    "detect": "boxes by a YOLO detector: train one, or let it predict",
    "teach": "soft masks of a teacher",
    "convert": "a PyTorch state dict into weights of these networks",
}
RECIPES = {"adapt": "adapt", "distil": "meddistill"}  # by command


def main() -> None:
    """The command `meduda`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: meduda COMMAND [flags]; meduda COMMAND --help tells its flags\n")
        print("\n".join(f"    {name:<10}{text}" for name, text in COMMANDS.items()))
        return
    name, *words = words
    sys.argv = [f"meduda {name}", *words]
    try:
        if name == "train":
            named = words[:1] if words and not words[0].startswith("-") else []
            sys.argv = [" ".join(["meduda train", *named]), *words[len(named) :]]
            train(*named or ["combination"])
        elif name == "adapt" and any(word.split("=")[0] == "--run" for word in words):
            train("source_free")
        elif name in RECIPES:
            train(RECIPES[name])
        elif name in COMMANDS:
            command(name)
        else:
            raise ValueError(f"meduda: no command {name!r}; {nearest(name, COMMANDS)}")
    except ValueError as error:
        _end(error)


def command(name: str) -> None:
    """Parses the flags of a command of `keras_meduda.commands`, and runs it.

    Raises:
        SystemExit: code 2 after a user's mistake, which is one message.
    """
    module = importlib.import_module(f"keras_meduda.commands.{name}")
    run_script(module.main, module.Flags, module.__doc__)


def train(name: str) -> None:
    """Parses the flags of a recipe of `keras_meduda.recipes`, and runs it.

    Raises:
        SystemExit: code 2 after a user's mistake, which is one message.
    """
    module = recipe_named(name)

    def script(flags):
        from keras_meduda.experiment.repeats import repeat

        repeat(module, flags)

    run_script(script, module.Flags, module.__doc__)


def recipe_named(name: str) -> types.ModuleType:
    """The module of a recipe.

    Raises:
        ValueError: no recipe of that name; the nearest ones.

    Example:
        >>> recipe_named("uda_crl")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: no recipe 'uda_crl'; did you mean uda_clr? There are adapt, aerunet_kd, ...
    """
    from keras_meduda import recipes

    known = sorted(path.stem for path in Path(recipes.__path__[0]).glob("[!_]*.py"))
    if name not in known:
        raise ValueError(f"no recipe {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"keras_meduda.recipes.{name}")


def run_script(script: Callable, flags_type: type, description: str) -> None:
    """Parses flags and runs a script; a user's mistake ends in one message and exit code 2.

    Set `MEDUDA_DEBUG=1` to see the traceback.
    """
    import tyro

    tolerate_encodings()
    if sys.argv[0].startswith("meduda "):  # a wheel has no scripts
        description = re.sub(r"python scripts/\w+\.py", sys.argv[0], description)
    # An indented line stays one: the commands are to be copied, not filled into a paragraph.
    description = re.sub(r"\n(python|meduda) ", r"\n    \1 ", description)
    flags = tyro.cli(flags_type, description=description)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        check_values(flags)
        script(flags)
        print(f"peak memory {peak_memory() / 1e9:.2f} GB", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        _end(error)
    except Exception as error:
        if is_out_of_memory(error):
            _end(f"out of memory: {' '.join(str(error).split())[:300]}\n{_smaller(flags)}")
        name = type(error).__name__  # TensorFlow's; it may not be loaded
        if name in ("NotFoundError", "InvalidArgumentError") and "DT_HALF" in str(error):
            _end(
                "this processor lacks an operation in half precision; expected --precision float32 "
                f"or mixed_bfloat16, or a GPU. {str(error)[:300]}"
            )
        raise


def _smaller(flags):
    """What needs less memory, of the flags that there are."""
    names = [name for name in ("batch_size", "patch", "size") if hasattr(flags, name)]
    if not names:
        return "Expected smaller images, or a machine with more memory."
    return f"Expected a smaller {' or '.join(map(_flag, names))}."


def _flag(name):
    return f"--{name.replace('_', '-')}"


def check_values(flags) -> None:
    """Refuses numbers outside the bounds beside them, paths to nothing, and lists without an entry.

    Raises:
        ValueError: each flag, what was received and what was expected.
    """
    problems = []
    hints = get_type_hints(type(flags), include_extras=True)
    for field in fields(flags):
        name, value = _flag(field.name), getattr(flags, field.name)
        if value == () != field.default:
            problems.append(f"{name}: expected one value or more.")
        bound = next(_bounds(hints[field.name]), None)
        for one in value if isinstance(value, tuple) else (value,):
            known = isinstance(one, int | float | Path)  # a default may be None
            if bound and known and (expected := bound.refuses(one)):
                problems.append(f"{name} {one}: expected {expected}.")
    if problems:
        raise ValueError("\n".join(problems))


def _bounds(hint):
    """The bounds in a type, at any depth."""
    extras = getattr(hint, "__metadata__", ())
    yield from (extra for extra in extras if isinstance(extra, Bound | There))
    for part in get_args(hint):
        yield from _bounds(part)


def _end(message):
    """Exit code 2 after a message, or the traceback for who asks for it."""
    if os.environ.get("MEDUDA_DEBUG"):
        raise
    print(message, file=sys.stderr)
    sys.exit(2)
