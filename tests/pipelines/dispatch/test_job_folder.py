from pathlib import Path

import pytest

from pipelines.contracts.jobs import JobStatus
from pipelines.dispatch import job_folder
from pipelines.dispatch.job_folder import JobFolder


def test_a_half_written_or_missing_file_reads_as_none(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.read_status() is None
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert folder.read_status() is None
    folder.write_status(JobStatus(state="running", attempt=2))
    assert folder.read_status() == JobStatus(state="running", attempt=2)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"], "nothing half-written is left"


def test_an_incomplete_last_line_is_held_back_while_the_attempt_runs(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.log_path(1).write_text("one\ntw")
    first = folder.read_logs(0, finished=False)
    assert (first.lines, first.cursor) == (("one",), 4)
    assert folder.read_logs(4, finished=False).lines == ()
    assert folder.read_logs(4, finished=True).lines == ("tw",)
    folder.log_path(1).write_text("one\ntwo\n")
    assert folder.read_logs(4, finished=False).lines == ("two",)


def test_the_cursor_passes_from_one_attempt_to_the_next(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.log_path(1).write_text("one\ncut of")
    folder.log_path(2).write_text("two\n")
    first = folder.read_logs(0, finished=False)
    assert first.lines == ("one", "cut of")
    assert folder.read_logs(first.cursor, finished=False).lines == ("two",)


def test_empty_lines_are_kept_and_an_empty_log_has_none(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.read_logs(0, finished=True).lines == ()
    folder.log_path(1).write_text("a\n\nb\n")
    assert folder.read_logs(0, finished=True).lines == ("a", "", "b")


def test_a_progress_bar_shows_as_its_last_state(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.log_path(1).write_bytes(b" 10%\r 50%\r100%\ndone\r\n\xff\n")
    assert folder.read_logs(0, finished=True).lines == ("100%", "done", "�")


def test_a_log_longer_than_a_chunk_is_returned_over_several_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folder, "MAX_CHUNK_BYTES", 10)
    folder = JobFolder(tmp_path)
    folder.log_path(1).write_text("123456\n123456\n" + "x" * 25 + "\n12\n")
    text, cursor = "", 0
    while (chunk := folder.read_logs(cursor, finished=False)).cursor != cursor:
        text += "|".join(chunk.lines) + "|"
        cursor = chunk.cursor
    assert text.replace("|", "") == "123456123456" + "x" * 25 + "12"
    assert cursor == folder.log_path(1).stat().st_size


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    with folder.locked(), pytest.raises(TimeoutError, match="locked by another submit"), folder.locked(0.1):
        raise AssertionError("unreachable")
    with folder.locked(0.1):
        assert (tmp_path / "submit.lock").exists()
