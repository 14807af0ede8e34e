"""progress.json follows the job; only rank 0 writes it."""

from pathlib import Path

import pytest

from alignment.contracts.jobs import Progress
from alignment.files import progress
from alignment.files.progress import JobProgress


def read(out: Path) -> Progress:
    return Progress.model_validate_json((out / "progress.json").read_text())


def test_first_and_last_are_always_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with JobProgress(tmp_path, total=5, unit="steps", done=2) as bar:
        assert read(tmp_path) == Progress(done=2, total=5, unit="steps")
        bar.update(3)
        assert read(tmp_path).done == 2, "too soon to write again"
        bar.update(5, "loss 1")
    assert read(tmp_path) == Progress(done=5, total=5, unit="steps", message="loss 1")
    assert "5/5" in capfd.readouterr().err


def test_in_between_it_is_written_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WRITE_EVERY_SECONDS", 0.0)
    with JobProgress(tmp_path, total=5, unit="shards") as bar:
        bar.update(3)
        assert read(tmp_path).done == 3


def test_other_ranks_are_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with JobProgress(tmp_path, total=5, unit="steps", enabled=False) as bar:
        bar.update(5)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
