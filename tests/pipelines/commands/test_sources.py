"""The kinds of data, and the table of votes, from the command line."""

import json
import sqlite3
from pathlib import Path

import pytest

from pipelines.commands import cli
from pipelines.intake.sources.catalogue import SOURCES
from pipelines.project.file import Project


def test_every_kind_is_listed_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sources"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [own["kind"] for own in found] == [cls.model_fields["kind"].default for cls in SOURCES]
    assert all(own["example"].startswith("[[sources]]\nname") and own["reads"].endswith(".") for own in found)


def test_the_table_of_votes_is_made_once(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    path = str(tiny_project.path)
    assert cli.main(["feedback", "init", path]) == cli.BAD_INPUT
    assert 'has no source of kind "feedback"' in capsys.readouterr().err
    text = tiny_project.path.read_text().replace("pick_a_pic", "feedback").replace('"pairs"', '"votes/feedback.db"')
    tiny_project.path.write_text(text)
    for _ in range(2):
        assert cli.main(["feedback", "init", path]) == 0
        (made,) = json.loads(capsys.readouterr().out)
        assert made == {
            **{"source": "tiny_pairs", "table": "feedback_votes"},
            "uri": str(tiny_project.path.parent / "votes/feedback.db"),
        }
    with sqlite3.connect(tiny_project.path.parent / "votes/feedback.db") as connection:
        assert connection.execute("SELECT count(*) FROM feedback_votes").fetchone() == (0,)
    connection.close()
    assert cli.main(["ingest", path]) == cli.BAD_INPUT
    assert "no source has pairs to train on yet (tiny_pairs)" in capsys.readouterr().err
