"""`plumbline new` as a newcomer types it, up to the next command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_bases import XL, make_base

from pipelines.commands import cli

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(
    tmp_path: Path, tiny_pairs: Callable[..., Path], tiny_row: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working directory with a base and pairs, in an installation without projects."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PLUMBLINE_PROJECTS_DIR", str(tmp_path / "own"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_base(tmp_path / "base", {**XL, "sample_size": 8})
    tiny_pairs([tiny_row(n) for n in range(30)], "votes.parquet", tmp_path / "votes")
    return tmp_path


@pytest.mark.slow
def test_the_file_is_written_checked_and_never_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["new", "mine", "--base", "base", "--pairs", "votes"]
    assert cli.main(command) == cli.DONE
    value = json.loads(capsys.readouterr().out)
    assert value["project"] == str(folder / "own/mine.toml")
    assert value["next"] == f"plumbline prompts import LIST --format tsv --out {folder}/mine/prompts.tsv"
    faults = {check["name"] for check in value["checks"] if not check["ok"]}
    assert {"base_model", "evaluation", "licences", "gate", "judges"} <= faults
    assert "sources" not in faults
    text = (folder / "own/mine.toml").read_text()
    assert 'backbone = { name = "sdxl", resolution = 64 }' in text
    assert cli.main(command) == cli.BAD_INPUT
    assert "mine.toml exists" in capsys.readouterr().err
    assert (folder / "own/mine.toml").read_text() == text


@pytest.mark.slow
def test_with_prompts_the_next_command_reads_the_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, base = ROOT / "examples/shapes/prompts.tsv", ROOT / "examples/shapes/base"
    judge = f"clip_preference={ROOT}/examples/shapes/judges/taste_a"
    command = ["new", "mine", "--base", str(base), "--pairs", "votes", "--prompts", str(prompts), "--judge", judge]
    assert cli.main(command) == cli.DONE
    value = json.loads(capsys.readouterr().out)
    assert value["next"] == "plumbline ingest mine"
    assert {check["name"] for check in value["checks"] if not check["ok"]} == {"licences"}
    assert cli.main(["doctor", "mine"]) == cli.FAILED
    again = json.loads(capsys.readouterr().out)["checks"]
    assert [own["name"] for own in again if not own["ok"]] == ["licences"]
    assert [own["name"] for own in again] == [own["name"] for own in value["checks"]]
