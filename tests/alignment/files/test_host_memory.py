"""Free memory as Linux and a container report it."""

from pathlib import Path

from alignment.files.host_memory import free_host_bytes


def group_of(folder: Path, limit: str, held: int, inactive: int) -> Path:
    folder.mkdir()
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{held}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\nactive_file 9\n")
    return folder


def info_of(path: Path, kib: int) -> Path:
    path.write_text(f"MemTotal:  900 kB\nMemFree:  1 kB\nMemAvailable:  {kib} kB\n")
    return path


def test_the_smaller_of_the_hosts_and_the_containers_counts(tmp_path: Path) -> None:
    group = group_of(tmp_path / "group", "10000", 4000, 500)
    assert free_host_bytes(info_of(tmp_path / "large", 100), group) == 10000 - 4000 + 500
    assert free_host_bytes(info_of(tmp_path / "small", 2), group) == 2048


def test_a_group_without_a_limit_is_left_out(tmp_path: Path) -> None:
    info = info_of(tmp_path / "info", 3)
    assert free_host_bytes(info, group_of(tmp_path / "group", "max", 4000, 500)) == 3072
    assert free_host_bytes(info, tmp_path / "none") == 3072


def test_a_full_container_has_nothing_free(tmp_path: Path) -> None:
    group = group_of(tmp_path / "group", "4000", 4100, 0)
    assert free_host_bytes(info_of(tmp_path / "info", 3), group) == 0


def test_a_host_that_reports_nothing_is_unknown(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path / "none", tmp_path / "none") is None


def test_this_host_has_some() -> None:
    free = free_host_bytes()
    assert free is None or free > 0
