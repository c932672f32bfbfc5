"""Which network of a run folder is used: as it was trained, or as its adaptation decided."""

import shutil
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


def forget(run_dir, *names) -> None:
    """Removes networks that an earlier call has decided for, so that `chosen` takes them no more.

    Args:
        run_dir: the run folder.
        names: `FEW`, `GUARDED`, or both.
    """
    for folder in (Path(run_dir) / name for name in names):
        (folder / "network.keras").unlink(missing_ok=True)  # first: half a run is never chosen
        shutil.rmtree(folder, ignore_errors=True)
