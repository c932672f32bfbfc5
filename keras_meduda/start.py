"""What TensorFlow reads once, when it starts, and therefore before anything else is imported."""

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia")  # where a GPU says what it is, without TensorFlow


def prepare() -> None:
    """Sets oneDNN and XLA's cache, where the user has not."""
    # By itself TensorFlow turns oneDNN on only where the processor has AVX-512 VNNI: elsewhere a
    # training step takes 1.5 (2D) to 6 times (3D) as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "TF_XLA_FLAGS" not in os.environ and (folder := compiled_folder()):
        # A processor's code is not kept: loading it prints a page of warnings about its features.
        os.environ["TF_XLA_FLAGS"] = (
            f"--tf_xla_persistent_cache_directory={folder} "
            "--tf_xla_persistent_cache_device_types=XLA_GPU_JIT"
        )


def cache_folder() -> Path:
    """Of the user, for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_meduda"


def compiled_folder() -> Path | None:
    """Where XLA keeps what it has compiled; `None` without a GPU or TensorFlow.

    Another one for each GPU, driver and TensorFlow: XLA's key has none of them.
    """
    files = [DRIVER / "version", *sorted(DRIVER.glob("gpus/*/information"))]
    try:
        said = [line for file in files for line in file.read_text().splitlines()]
        release = version("tensorflow")
    except (OSError, PackageNotFoundError):
        return None
    kept = [line for line in said if line.startswith(("NVRM version", "Model"))]
    of = hashlib.sha256("\n".join([release, *kept]).encode()).hexdigest()[:12]
    return cache_folder() / "xla" / of
