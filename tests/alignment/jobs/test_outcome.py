"""Every ending of a job can be read from disk and from the exit code."""

import errno
import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alignment.contracts.jobs import SPEC_FILE, JobFailure, JobStoppedError, Placement
from alignment.contracts.values import ValueObject
from alignment.jobs.outcome import JobPaths, _describe, _parse_paths, claim_output, exit_code, read_object, write_result


class ToySpec(ValueObject):
    """A spec with a seed only."""

    seed: int


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "s", tmp_path / "p", tmp_path / "in", tmp_path / "out")


def failure(paths: JobPaths) -> JobFailure:
    return JobFailure.model_validate_json((paths.out / "failure.json").read_text())


@pytest.mark.parametrize(
    ("error", "kind", "code", "text"),
    [
        (ValueError("beta is negative"), "bad_input", 2, "beta is negative"),
        (JobStoppedError("bad_data", "torn", step=3), "bad_data", 1, "torn"),
        (JobStoppedError("diverged", "nan", step=3), "diverged", 1, "nan"),
        (JobStoppedError("preempted", "asked", step=3), "preempted", 143, "asked"),
        (OSError(errno.ENOSPC, "No space left", "/data/x/file"), "storage_full", 1, "/data/x"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "storage_full", 1, "Quota exceeded"),
        (OSError(errno.EACCES, "Permission denied", "/data"), "crashed", 1, "PermissionError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", 1, "Lower placement.train.micro_batch"),
        (MemoryError(), "out_of_memory", 1, "Lower placement.train.micro_batch"),
        (RuntimeError("boom"), "crashed", 1, "RuntimeError: boom"),
    ],
)
def test_every_error_has_its_kind_and_code(paths: JobPaths, error: Exception, kind: str, code: int, text: str) -> None:
    def main(given: JobPaths) -> None:
        raise error

    assert exit_code(main, paths) == code
    assert failure(paths).kind == kind
    assert text in failure(paths).message
    assert failure(paths).step == getattr(error, "step", None)


def test_a_finished_job_returns_at_once(paths: JobPaths) -> None:
    calls: list[JobPaths] = []
    paths.out.mkdir()
    write_result(paths.out, Placement())
    assert exit_code(calls.append, paths) == 0
    assert calls == []
    assert json.loads((paths.out / "result.json").read_text())["micro_batch"] == 8


def test_a_rerun_removes_the_earlier_failure(paths: JobPaths) -> None:
    paths.out.mkdir()
    (paths.out / "failure.json").write_text("old")
    assert exit_code(lambda given: None, paths) == 0
    assert not (paths.out / "failure.json").exists()


def test_the_first_process_to_fail_is_the_cause(paths: JobPaths) -> None:
    def main(given: JobPaths) -> None:
        (given.out / "failure.json").write_text(JobFailure(kind="diverged", message="first").model_dump_json())
        raise RuntimeError("the other one is gone")

    assert exit_code(main, paths) == 1
    assert failure(paths).message == "first"
    assert [path.name for path in paths.out.iterdir()] == ["failure.json"]


def test_other_ranks_leave_the_earlier_failure_to_rank_0(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    paths.out.mkdir()
    (paths.out / "failure.json").write_text("{}")
    assert exit_code(lambda given: None, paths) == 0
    assert (paths.out / "failure.json").exists()


def test_inputs_are_found_by_digest(paths: JobPaths) -> None:
    (paths.inputs / "abc").mkdir(parents=True)
    assert paths.input("abc", "snapshot") == paths.inputs / "abc"
    with pytest.raises(ValueError, match="snapshot with digest def"):
        paths.input("def", "snapshot")


def test_objects_are_checked_field_by_field(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"micro_batch": 0, "num_proceses": 2}')
    with pytest.raises(ValueError, match="num_processes") as wrong:
        read_object(path, Placement, what="placement")
    assert "micro_batch" in str(wrong.value)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_object(path, Placement, what="placement")
    with pytest.raises(ValueError, match="nothing"):
        read_object(tmp_path / "nothing", Placement, what="placement")


def test_arguments() -> None:
    parsed = _parse_paths(["--spec", "s", "--placement", "p", "--inputs", "i", "--out", "o"])
    assert parsed == JobPaths(Path("s"), Path("p"), Path("i"), Path("o"))
    with pytest.raises(SystemExit):
        _parse_paths(["--spec", "s"])


def test_storage_full_without_a_name_names_the_output(tmp_path: Path) -> None:
    assert str(tmp_path) in _describe(OSError(errno.ENOSPC, "full"), tmp_path).message


def test_weights_that_cannot_be_read_are_bad_data_and_the_log_shows_which(
    paths: JobPaths, caplog: pytest.LogCaptureFixture
) -> None:
    """A retry would read the same bytes."""
    cut_off = paths.out.parent / "cut_off.safetensors"
    save_file({"w": torch.zeros(8)}, cut_off)
    cut_off.write_bytes(cut_off.read_bytes()[:20])

    def read(_: JobPaths) -> None:
        load_file(cut_off)

    assert exit_code(read, paths) == 1
    found = failure(paths)
    assert found.kind == "bad_data"
    assert "damaged or incomplete" in found.message
    assert "load_file(cut_off)" in caplog.text


def test_weights_that_cannot_be_written_may_be_written_by_the_next_attempt(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError) as unwritten:
        save_file({"w": torch.zeros(8)}, tmp_path / "nowhere" / "w.safetensors")
    assert _describe(unwritten.value, tmp_path).kind == "crashed"


def test_sigterm_in_a_job_without_a_handler_is_preemption(tmp_path: Path) -> None:
    script = (
        "import time\nfrom alignment.jobs.outcome import run_job\n"
        "def main(paths):\n    (paths.out / 'started').touch()\n    time.sleep(30)\n"
        "run_job(main)\n"
    )
    arguments = ["--spec", "s", "--placement", "p", "--inputs", "i", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE)
    try:
        for _ in range(2000):
            if (tmp_path / "started").exists():
                break
            signal.sigtimedwait([], 0.01)
        process.terminate()
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
        process.communicate()
    assert JobFailure.model_validate_json((tmp_path / "failure.json").read_text()).kind == "preempted"


@pytest.mark.slow
def test_a_job_does_not_warn_of_parts_of_a_library_that_it_does_not_use(tmp_path: Path) -> None:
    assert find_spec("torchao"), "torchao is part of the developer's install"
    script = (
        "from alignment.jobs.outcome import run_job\n"
        "def main(paths):\n"
        "    from diffusers import UNet2DConditionModel\n"
        "run_job(main)"
    )
    folders = {name: str(tmp_path / name) for name in ("spec", "placement", "inputs", "out")}
    arguments = [word for name, value in folders.items() for word in (f"--{name}", value)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_belongs_to_the_spec_that_started_it(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path, tmp_path, tmp_path, tmp_path)
    ours, theirs = (ToySpec(seed=seed) for seed in (1, 2))
    order: list[str] = []
    claim_output(paths, ours, "toy spec", wait=lambda: order.append(str((tmp_path / SPEC_FILE).exists())), writes=True)
    assert order == ["False"], "no process writes before all have read"
    claim_output(paths, ours, "toy spec")
    noted = (tmp_path / SPEC_FILE).read_text()
    with pytest.raises(ValueError, match="holds the output of another toy spec; give an empty folder"):
        claim_output(paths, theirs, "toy spec")
    assert (tmp_path / SPEC_FILE).read_text() == noted


def test_only_the_writing_process_notes_the_spec(tmp_path: Path) -> None:
    claim_output(JobPaths(tmp_path, tmp_path, tmp_path, tmp_path), ToySpec(seed=1), "toy spec", writes=False)
    assert not (tmp_path / SPEC_FILE).exists()
