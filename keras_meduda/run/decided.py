"""Which network of a run folder is used: as it was trained, or as its adaptation decided."""

from pathlib import Path

FEW, GUARDED = "few", "guarded"  # where an adaptation keeps the network that it decides for


def chosen(run_dir) -> Path:
    """The folder of the network that a run is used with.

    An adaptation ends with a decision on how far to go, and on what few labels are worth. It keeps
    the network that it decides for below the run folder, the later decision in `few`, the earlier
    one in `guarded`. Without one that is the run folder itself.
    """
    folder = Path(run_dir)
    decided = (folder / name for name in (FEW, GUARDED))
    return next((path for path in decided if (path / "network.keras").is_file()), folder)
