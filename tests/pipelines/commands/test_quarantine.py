"""Quarantined rows, listed and validated again from the command line, on the pairs of the shapes project."""

import json
from pathlib import Path

import pytest

from pipelines.commands import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHAPES = Path(__file__).parents[3] / "projects/shapes.toml"


def test_quarantined_rows_are_listed_and_replayed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path))
    assert cli.main(["quarantine", "show", str(SHAPES)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert "No shard was validated yet" in caplog.text
    assert cli.main(["validate", str(SHAPES)]) == 0
    capsys.readouterr()
    assert cli.main(["quarantine", "show", str(SHAPES)]) == 0
    shards = json.loads(capsys.readouterr().out)
    assert [shard["num_accepted"] + shard["num_quarantined"] for shard in shards] == [s["num_rows"] for s in shards]
    assert all(bool(shard["reasons"]) == (shard["num_quarantined"] > 0) for shard in shards)
    bad = sum(shard["num_quarantined"] for shard in shards)
    assert bad > 0
    assert cli.main(["quarantine", "replay", str(SHAPES)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert 0 < again["rows"] <= bad
    assert again["accepted"] == 0, "no rule has changed"
