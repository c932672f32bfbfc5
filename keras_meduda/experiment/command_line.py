"""The command line: flags of a dataclass, and how a user's mistake ends.

Nothing heavy is imported before the flags are parsed, so that `--help` answers at once.
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

from keras_meduda.experiment.options import Bound, Options, nearest
from keras_meduda.progress import peak_memory, tolerate_encodings

COMMANDS = {
    "adapt": "a network to another scanner: from two domains, or from --run and --images alone",
    "train": "a recipe (train oct), or any method on any network (train --method M --network N)",
    "distil": "a large teacher into a small network, without masks",
    "predict": "masks of images from a trained run",
    "evaluate": "scores of a trained run on labelled cases",
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
    keras = getattr(module, "KERAS", True)
    run_script(module.main, module.Flags, module.__doc__, keras)


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


def run_script(script: Callable, flags_type: type, description: str, keras: bool = True) -> None:
    """Parses flags and runs a script; a user's mistake ends in one message and exit code 2.

    Set `MEDUDA_DEBUG=1` to see the traceback. `keras=False` is for scripts that may load PyTorch,
    which does not share a process with TensorFlow.
    """
    import tyro

    tolerate_encodings()
    # An indented line stays one: the commands are to be copied, not filled into a paragraph.
    description = re.sub(r"\n(python|meduda) ", r"\n    \1 ", description)
    flags = tyro.cli(flags_type, description=description)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        check_values(flags)
        if isinstance(flags, Options):
            flags.check()
        if keras:
            _import_quietly()
        if getattr(flags, "strategy", "none") == "multiworker":
            _join_cluster()
        script(flags)
        print(f"peak memory {peak_memory() / 1e9:.2f} GB", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        _end(error)
    except Exception as error:
        name = type(error).__name__  # TensorFlow's; it may not be loaded
        if name == "ResourceExhaustedError":
            _end(f"out of memory; a smaller --batch-size or --size needs less. {str(error)[:300]}")
        if name in ("NotFoundError", "InvalidArgumentError") and "DT_HALF" in str(error):
            _end(
                "this processor lacks an operation in half precision; expected --precision float32 "
                f"or mixed_bfloat16, or a GPU. {str(error)[:300]}"
            )
        raise


def check_values(flags) -> None:
    """Refuses numbers outside the bounds that stand beside them, and lists without an entry.

    Raises:
        ValueError: the flag, what was received and what was expected.
    """
    hints = get_type_hints(type(flags), include_extras=True)
    for field in fields(flags):
        name, value = f"--{field.name.replace('_', '-')}", getattr(flags, field.name)
        if value == () != field.default:
            raise ValueError(f"{name}: expected one value or more.")
        bound = next(_bounds(hints[field.name]), None)
        for number in value if isinstance(value, tuple) else (value,):
            if bound and isinstance(number, int | float) and (expected := bound.refuses(number)):
                raise ValueError(f"{name} {number}: expected {expected}.")


def _bounds(hint):
    """The bounds in a type, at any depth."""
    yield from (extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bound))
    for part in get_args(hint):
        yield from _bounds(part)


def _end(message):
    """Exit code 2 after a message, or the traceback for who asks for it."""
    if os.environ.get("MEDUDA_DEBUG"):
        raise
    print(message, file=sys.stderr)
    sys.exit(2)


def _join_cluster():
    """Collective operations are set up before TensorFlow computes anything."""
    from keras_meduda import distribution

    distribution.strategy("multiworker")


def _import_quietly():
    """Loads Keras and its backend, whose start-up lines bypass every log level, without them."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
