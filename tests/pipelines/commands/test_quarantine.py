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
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["pairs_in"] == rows["accepted"] + rows["quarantined"] + rows["duplicates"]
    assert (rows["quarantined"], rows["duplicates"]) == (12, 1)
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


def test_a_snapshot_has_a_data_report_and_is_compared_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path))
    assert cli.main(["diff", str(SHAPES)]) == cli.BAD_INPUT
    assert "has no snapshot yet. Run `plumbline snapshot shapes`" in capsys.readouterr().err
    assert cli.main(["snapshot", str(SHAPES)]) == 0
    built = json.loads(capsys.readouterr().out)
    page = Path(built["data_report_uri"].removeprefix("file://"))
    text = page.read_text()
    assert f"{sum(built['num_pairs'].values())} pairs of 612 rows; 13 rows are not in the snapshot" in text
    assert text.count("<figure>") == text.count('<img src="data:image/jpeg;base64,') == 24
    assert not (tmp_path / "mlflow").exists(), "a snapshot alone needs no MLflow"
    assert cli.main(["diff", str(SHAPES)]) == cli.BAD_INPUT
    assert "has one snapshot" in capsys.readouterr().err
    assert cli.main(["diff", str(SHAPES), built["content_digest"][:6], "last"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_before"], found["num_added"], found["examples"]) == (599, 0, [])
