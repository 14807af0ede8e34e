"""The bytes that a pass keeps, counted once for each storage, against a limit."""

from pathlib import Path

import pytest
import torch

from alignment.training.memory_meter import HostMeter, _host_available, meter_of


def keeps(count: int) -> None:
    """A product keeps both of its factors, here the same tensor of `count` float32 numbers."""
    values = torch.ones(count, requires_grad=True)
    (values * values).sum().backward()


def test_a_kept_storage_counts_once() -> None:
    assert HostMeter(1e9).measure(lambda: keeps(1000)).peak_bytes == 4000


def test_more_than_the_limit_is_out_of_memory() -> None:
    assert HostMeter(4000).measure(lambda: keeps(1000)).peak_bytes == 4000
    with pytest.raises(torch.OutOfMemoryError, match="A pass keeps more than"):
        HostMeter(3999).measure(lambda: keeps(1000))


def test_the_hosts_memory_is_what_the_kernel_can_give(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:  50 kB\n")
    assert _host_available(meminfo) == 0.92 * 50 * 1024
    assert _host_available(tmp_path / "absent") == float("inf")


def test_a_cpu_has_the_hosts_meter() -> None:
    assert meter_of(torch.device("cpu")).available() > 0
