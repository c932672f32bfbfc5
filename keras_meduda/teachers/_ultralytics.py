"""ultralytics, or a message that says how to get it; and its weights, or where to put them."""

from pathlib import Path

ASSETS = "https://github.com/ultralytics/assets/releases"


def load_ultralytics():
    """The package, imported when it is needed: it brings PyTorch with it.

    Raises:
        ImportError: it is not installed, or does not fit its PyTorch; says how to install it.
    """
    try:
        import ultralytics
    except Exception as error:  # of an unfitting pair of torch and torchvision it is a RuntimeError
        raise ImportError(
            f"YOLO and SAM2 need ultralytics, which cannot be loaded ({error}). Install it with "
            "`pip install 'keras-meduda[teacher]'`, which takes torch and torchvision as a fitting "
            "pair; the GrabCut teacher needs neither."
        ) from error
    return ultralytics


def weights_file(name) -> Path:
    """A file of weights, downloaded by its name where there is a network.

    Args:
        name: a path, or a name that ultralytics knows, such as `sam2.1_t.pt`.

    Raises:
        FileNotFoundError: it is not there and cannot be downloaded; says where to put it.
    """
    path = Path(name).absolute()
    if path.is_file():
        return path
    load_ultralytics()
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        found = Path(attempt_download_asset(str(name)))
        reason = "no such asset"
    except Exception as error:
        found, reason = path, str(error).splitlines()[0].strip("❌ .")
    if found.is_file():
        return found.absolute()
    raise FileNotFoundError(
        f"{path}: no such weights, and they cannot be downloaded ({reason}). Fetch {path.name} "
        f"from {ASSETS} on a machine with internet access and put it at {path}."
    )
