"""Two ranks with a folder each, as on two hosts, and two ranks with one folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RANK = """
import sys
from pathlib import Path
from accelerate import PartialState
from alignment.jobs import shared_output

shared_output.PIECE_BYTES = 1000
state = PartialState(cpu=True)
shared_output.share_output(state, Path(sys.argv[1]), everywhere=sys.argv[2] == "everywhere")
state.destroy_process_group()
"""


def share(folders: list[Path], where: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank, folder in enumerate(folders):
        place = {"RANK": str(rank), "WORLD_SIZE": str(len(folders)), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        environ = {**os.environ, **place, **meeting, "PYTHONPATH": str(Path(__file__).parents[3])}
        ranks.append(subprocess.Popen([sys.executable, "-c", RANK, str(folder), where], env=environ))
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for rank in (0, 1):
        (tmp_path / str(rank) / "pairs").mkdir(parents=True)
        (tmp_path / str(rank) / "pairs" / f"{rank}.bin").write_bytes(bytes([rank]) * 2500)
        (tmp_path / str(rank) / "empty").write_bytes(b"")
    (tmp_path / "1" / "progress.json").write_text("{}")
    (tmp_path / "1" / ".draft").write_text("half")
    return [tmp_path / "0", tmp_path / "1"]


def test_rank_0_gets_what_the_other_wrote_and_nothing_hidden(folders: list[Path]) -> None:
    share(folders, "to rank 0")
    assert names(folders[0]) == ["empty", "pairs/0.bin", "pairs/1.bin"]
    assert (folders[0] / "pairs/1.bin").read_bytes() == b"\1" * 2500
    assert "pairs/0.bin" not in names(folders[1])


def test_everywhere_is_everywhere_and_one_folder_stays_as_it_is(folders: list[Path]) -> None:
    share(folders, "everywhere")
    assert (folders[1] / "pairs/0.bin").read_bytes() == b"\0" * 2500
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")}
    share([folders[0], folders[0]], "everywhere")
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")} == before
