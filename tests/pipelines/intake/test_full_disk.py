"""`plumbline ingest`, `validate` and `snapshot` where a write fails for lack of space, and again with space.

On every host the kernel refuses files above a size. Where a process may mount, the store is on a small tmpfs too.
"""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from intake_processes import PROJECT, RUN_SECONDS, Installation, end, sha256_of, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COMMANDS = ("ingest", "validate", "snapshot")
FAILED = 1
SMALL_BYTES = 65536
"""Less than any table of pairs, more than any other file."""
ON_TMPFS = """
mount -t tmpfs -o size=256m plumbline "$DISK" || exit 99
for command in ingest validate snapshot; do
    used=$(df -k --output=used "$DISK" | tail -n 1)
    mount -o remount,size=$((used + 200))k "$DISK"
    "$@" $command "$PROJECT" --json > "$RESULTS/$command.out" 2> "$RESULTS/$command.err"
    echo $? > "$RESULTS/$command.code"
    cp -a "$DISK" "$RESULTS/$command.disk"
    mount -o remount,size=256m "$DISK"
    "$@" $command "$PROJECT" --json > "$RESULTS/$command.out" 2> "$RESULTS/again.err" || exit 98
done
cp -a "$DISK" "$RESULTS/end.disk"
"""


@cache
def namespace() -> tuple[str, ...]:
    """Return the command that begins a namespace in which this user may mount; empty where there is none."""
    for flags in ("-m", "-Urm"):
        command = ("unshare", flags)
        if shutil.which("unshare"):
            trial = [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "plumbline", "/mnt"]
            if subprocess.run(trial, capture_output=True, timeout=60, check=False).returncode == 0:
                return command
    return ()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))[0]


def check_message(message: str, folder: Path, variable: str) -> None:
    """Check that the last line is the only message, with path and remedy."""
    *logs, last = message.strip().splitlines()
    assert last.startswith("plumbline: "), message
    assert "Errno" not in last
    assert all(part in last for part in (str(folder), "Free space", variable, "same command again")), last
    assert all(line[:4].isdigit() for line in logs), message  # lines of the log begin with a date


def check_whole(installation: Installation, quiet: Installation) -> None:
    """Check that every file in the store is one of the undisturbed run, in full, and nothing else is left."""
    assert installation.left_over() == []
    digests = quiet.digests()
    for folder in ("raw", "snapshots"):
        tables = [path for path in (installation.store_dir / folder).rglob("*.parquet") if path.is_file()]
        names = [path.relative_to(installation.store_dir).as_posix() for path in tables]
        assert [sha256_of(path) for path in tables] == [digests[name] for name in names]
    assert installation.digests().items() <= digests.items()


def files_up_to(num_bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_refused_write_is_one_message_and_leaves_nothing(quiet: Installation, tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    for command in COMMANDS:
        process = installation.start(command, preexec_fn=files_up_to(SMALL_BYTES))
        try:
            out, message = process.communicate(timeout=RUN_SECONDS)
        finally:
            end(process)
        assert (process.returncode, out) == (FAILED, ""), message
        check_message(message, installation.state_dir, "PLUMBLINE_STATE_DIR")
        check_whole(installation, quiet)
        installation.run(command)
    assert installation.digests() == quiet.digests()
    assert installation.left_over() == installation.unfinished() == []


def check_full_tmpfs(quiet: Installation, folder: Path) -> None:
    results, disk = folder / "results", folder / "disk"
    for own in (results, disk, folder / "tmp"):
        own.mkdir()
    env = Installation(folder).env | {"PLUMBLINE_STORE_URI": f"file://{disk}/store", "DISK": str(disk)}
    subprocess.run(
        [*namespace(), "sh", "-c", ON_TMPFS, "sh", sys.executable, "-m", "pipelines.commands.cli"],
        env=env | {"RESULTS": str(results), "PROJECT": str(PROJECT)},
        cwd=Path(__file__).parents[3],
        timeout=RUN_SECONDS,
        check=True,
    )
    for command in COMMANDS:
        assert int((results / f"{command}.code").read_text()) == FAILED
        check_message((results / f"{command}.err").read_text(), disk, "PLUMBLINE_STORE_URI")
        check_whole(Installation(results / f"{command}.disk", store_parent="."), quiet)
        assert json.loads((results / f"{command}.out").read_text())
    at_end = Installation(results / "end.disk", store_parent=".")
    assert at_end.digests() == quiet.digests()
    assert Installation(folder).left_over() == at_end.unfinished() == []


if namespace():

    def test_a_full_file_system_is_one_message_and_leaves_nothing(quiet: Installation, tmp_path: Path) -> None:
        check_full_tmpfs(quiet, tmp_path)
