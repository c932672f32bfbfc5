"""What is set for TensorFlow before it is imported."""

import os

import pytest

from keras_meduda import start


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A GPU, as its driver tells of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TF_XLA_FLAGS", "")  # so that what a test sets goes with it
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr(start, "DRIVER", tmp_path / "nvidia")
    card = tmp_path / "nvidia/gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t One\nGPU UUID: \t GPU-1\n")
    (tmp_path / "nvidia/version").write_text("NVRM version: 580.1\nGCC version: 12\n")
    return card


def test_xla_keeps_what_it_compiles_for_a_gpu(driver, tmp_path):
    start.prepare()
    folder, kinds = os.environ["TF_XLA_FLAGS"].split()
    assert folder.startswith(f"--tf_xla_persistent_cache_directory={tmp_path / 'cache'}")
    assert kinds == "--tf_xla_persistent_cache_device_types=XLA_GPU_JIT"


def test_another_gpu_has_another_folder(driver):
    before = start.compiled_folder()
    driver.write_text("Model: \t\t One\nGPU UUID: \t GPU-2\n")
    assert start.compiled_folder() == before, "the same kind of GPU in another machine"
    driver.write_text("Model: \t\t Two\nGPU UUID: \t GPU-1\n")
    assert start.compiled_folder() != before


def test_flags_of_the_user_stay(driver, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    start.prepare()
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_without_a_gpu_nothing_is_kept(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(start, "DRIVER", tmp_path / "none")
    start.prepare()
    assert "TF_XLA_FLAGS" not in os.environ


def test_without_tensorflow_nothing_is_kept(driver, monkeypatch):
    def missing(name):
        raise start.PackageNotFoundError(name)

    monkeypatch.setattr(start, "version", missing)
    assert start.compiled_folder() is None
