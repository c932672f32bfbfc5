"""The PyTorch side, in a process of its own: TensorFlow and Triton abort when they meet in one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None,
    reason="ultralytics is not installed; pip install 'keras-meduda[teacher]'",
)
def test_sam2_and_yolo_with_random_weights():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", HERE / "in_own_process.py"]
    environment = {**os.environ, "MEDUDA_OWN_PROCESS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parents[1], env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
