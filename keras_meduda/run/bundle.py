"""A run as one file: what prediction needs, its model card and its scores, and no image."""

import contextlib
import tempfile
import zipfile
from pathlib import Path

from keras_meduda.data.io import replacing
from keras_meduda.run.decided import chosen
from keras_meduda.run.model_card import model_card

_NEEDED = ("config.json", "network.keras")


def bundle(run_dir, path) -> Path:
    """Packs a run: `config.json`, `network.keras`, the card as `README.md`, and summaries.

    Names of cases stay at home: of an evaluation its `summary.json` is packed and not its table.

    Args:
        run_dir: the run folder.
        path: the file, ending in `.zip`; it appears whole or not at all.

    Returns:
        The path.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: another ending.

    Example:
        >>> import keras_meduda as km
        >>> path = bundle(getfixture("run").path, getfixture("tmp_path") / "run.zip")
        >>> with unpacked(path) as folder:
        ...     km.load(folder).task.classes
        ('cup', 'disc')
    """
    folder, path, network = Path(run_dir), Path(path), chosen(run_dir)
    if path.suffix.lower() != ".zip":
        raise ValueError(f"bundle: received {path}, expected a name that ends in .zip.")
    if missing := [name for name in _NEEDED if not (network / name).is_file()]:
        raise FileNotFoundError(
            f"{folder}: expected a finished run, with {' and '.join(_NEEDED)}; {missing} missing."
        )
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as packed:
        packed.writestr("README.md", model_card(folder))
        packed.write(network / "config.json", "config.json", zipfile.ZIP_DEFLATED)
        packed.write(network / "network.keras", "network.keras")  # is packed already
        for file in sorted(folder.glob("evaluation/*/summary.json")):
            packed.write(file, file.relative_to(folder).as_posix(), zipfile.ZIP_DEFLATED)
    return path


@contextlib.contextmanager
def unpacked(path):
    """The folder of a run, or of a bundle of one for as long as the block lasts.

    Args:
        path: a run folder, or a file that `bundle` has written.

    Yields:
        A folder with `config.json` and `network.keras`.

    Raises:
        ValueError: a file that is no bundle, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        yield path  # a folder, or nothing: who reads it says so
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as packed:
                if missing := sorted(set(_NEEDED) - set(packed.namelist())):
                    raise ValueError(f"{path}: expected a bundle of a run; {missing} missing.")
                for name in _NEEDED:
                    (Path(folder) / name).write_bytes(packed.read(name))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: expected a whole bundle of a run ({error}).") from error
        yield Path(folder)
