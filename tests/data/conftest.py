"""What the tests of prepared data share."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def stamps():
    """Function from a folder to the time of change of each of its files, by name."""
    return lambda folder: {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


@pytest.fixture
def full_disk():
    """Context manager in which no file can grow beyond `size` bytes."""

    @contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
