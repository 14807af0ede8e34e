"""The commands on external files, through the command line."""

import json
from pathlib import Path

import pytest

from pipelines.commands import cli


def test_the_exit_code_of_a_canary_is_0_only_if_the_challenger_won(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "picks.csv"
    table.write_text("pick\n" + "challenger\nchallenger\nchampion\nchallenger\n" * 40)
    assert cli.main(["canary", str(table)]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "challenger"
    assert cli.main(["canary", str(table), "--required", "0.7"]) == 3
    table.write_text("pick\n" + "challenger\n" * 200 + "champion\n" * 400)
    assert cli.main(["canary", str(table)]) == 3, "the challenger led at first, but the picks changed"
    assert cli.main(["canary", str(table), "--required", "2"]) == cli.BAD_INPUT


def test_prompts_are_imported_by_a_sub_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.tsv").write_text("Prompt\tCategory\na fox\tAnimals\n")
    command = ["prompts", "import", str(tmp_path / "list.tsv"), "--format", "parti", "--out"]
    assert cli.main([*command, str(tmp_path / "x.tsv")]) == 0
    assert json.loads(capsys.readouterr().out)["categories"] == {"Animals": 1}
    assert (tmp_path / "x.tsv").read_text() == "prompt\tcategory\na fox\tAnimals\n"
    command[4] = "partiprompts"
    assert cli.main([*command, str(tmp_path / "y.tsv")]) == cli.BAD_INPUT
