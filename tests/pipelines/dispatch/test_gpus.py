"""GPUs, by programs in place of the driver's."""

from pathlib import Path

import pytest

from pipelines.dispatch import gpus


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a script in place of nvidia-smi, the only program that is found."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_each_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'NVIDIA H200, 143771 MiB'; echo 'NVIDIA H100, 81559 MiB'")
    assert gpus.list_gpus() == ["NVIDIA H200, 143771 MiB", "NVIDIA H100, 81559 MiB"]
    assert gpus.gpu_memory_gib() == 81559 / 1024


def test_a_host_without_a_driver_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.list_gpus() == []
    assert gpus.gpu_memory_gib() is None


def test_a_driver_that_fails_or_is_silent_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'no devices' >&2; exit 9")
    with pytest.raises(ValueError, match="nvidia-smi failed: no devices"):
        gpus.list_gpus()
    driver(tmp_path, monkeypatch, "exec /bin/sleep 60")
    monkeypatch.setattr(gpus, "NVIDIA_SMI_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"nvidia-smi did not respond within 0\.2 s"):
        gpus.list_gpus()
