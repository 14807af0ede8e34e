"""The input cache stays within its limit and keeps what a running process uses."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.dispatch.input_cache import GIB, InputCache
from pipelines.settings import Settings, load_settings

LIMIT = 1000
CODE = """
import sys
from pipelines.dispatch.input_cache import InputCache
from pipelines.settings import load_settings
for name in sys.argv[1:]:
    InputCache(load_settings()).lease(name, 400)
print("leased", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path), "PLUMBLINE_CACHE_GIB": repr(LIMIT / GIB)})


def add(settings: Settings, name: str, num_bytes: int = 400) -> Path:
    """Put an input into the cache that no process uses."""
    folder = settings.state_dir / "inputs" / name
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(bytes(num_bytes))
    lock = settings.state_dir / "inputs" / ".use" / name
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    return folder


def used_at(settings: Settings, name: str, seconds: float) -> None:
    os.utime(settings.state_dir / "inputs" / ".use" / name, (seconds, seconds))


@contextmanager
def other_job(settings: Settings, *names: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that uses inputs until the end of the block."""
    env = os.environ | {
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
        "PLUMBLINE_CACHE_GIB": repr(LIMIT / GIB),
    }
    command = [sys.executable, "-c", CODE, *names]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leased\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_was_used_longest_ago_is_deleted_first(settings: Settings) -> None:
    first, second = add(settings, "first"), add(settings, "second")
    used_at(settings, "first", 2000)
    used_at(settings, "second", 1000)
    InputCache(settings).lease("new", 500)
    assert first.exists()
    assert not second.exists()
    assert InputCache(settings).num_bytes() == 400


def test_nothing_is_deleted_while_everything_fits_or_without_a_limit(settings: Settings, tmp_path: Path) -> None:
    add(settings, "first")
    InputCache(settings).lease("new", LIMIT - 400)
    InputCache(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})).lease("huge", 10**15)
    assert InputCache(settings).num_bytes() == 400


def test_an_input_that_a_running_job_uses_is_kept_until_the_job_is_killed(settings: Settings) -> None:
    used = add(settings, "used")
    unused = add(settings, "unused")
    used_at(settings, "unused", 2e9)
    with other_job(settings, "used"):
        InputCache(settings).lease("new", 600)
        assert used.exists()
        assert not unused.exists()
        with pytest.raises(OSError, match=r"running jobs use .* Wait for them") as caught:
            InputCache(settings).lease("newer", 601)
        assert caught.value.errno == errno.ENOSPC


def test_an_input_that_is_being_fetched_counts_with_its_whole_size(settings: Settings) -> None:
    with other_job(settings, "coming"):
        (settings.state_dir / "inputs" / "coming").mkdir()
        with pytest.raises(OSError, match="Wait for them"):
            InputCache(settings).lease("new", 601)
    InputCache(settings).lease("new", 601)


def test_an_input_larger_than_the_cache_is_refused_with_both_sizes(settings: Settings) -> None:
    kept = add(settings, "kept")
    with pytest.raises(ValueError, match=r"Raise PLUMBLINE_CACHE_GIB"):
        InputCache(settings).lease("new", LIMIT + 1)
    assert kept.exists()
