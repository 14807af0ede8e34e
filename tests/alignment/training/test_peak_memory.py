"""The high-water mark rises with allocated memory and stays after it is freed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.training.peak_memory import _resident_peak_gib, peak_memory


def test_the_mark_rises_with_allocations_and_stays() -> None:
    before = peak_memory(torch.device("cpu"))["resident_memory_gib"]
    held = bytearray(b"x") * (int(before * 2**30) + 2**28)  # more than was ever allocated
    size = len(held)
    del held
    after = peak_memory(torch.device("cpu"))["resident_memory_gib"]
    assert after * 2**30 > size
    assert after < before * 2 + 0.6


def test_kibibytes_of_the_kernel_become_gib(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 9999999 kB\nVmHWM:\t 1572864 kB\nVmRSS:\t 1 kB\n")
    assert _resident_peak_gib(tmp_path / "status") == pytest.approx(1.5)


def test_a_host_without_the_figure_gives_no_metric(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert _resident_peak_gib(tmp_path / "status") is None
    assert _resident_peak_gib(tmp_path / "absent") is None


def test_a_gpu_reports_what_is_allocated_and_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(cuda, "max_memory_reserved", lambda device: 4 * 2**30)
    assert peak_memory(torch.device("cuda")) == {"gpu_memory_gib": 3.0, "gpu_reserved_gib": 4.0}
