"""Errors of a judge's folder."""

from pathlib import Path

import pytest

from alignment.rewards.judge_files import read_json, require_files


def test_every_missing_file_is_named_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    require_files(tmp_path, "judge", ("config.json",))
    with pytest.raises(ValueError, match=r"lacks a, b\. Make it with"):
        require_files(tmp_path, "judge", ("a", "config.json", "b"))
    with pytest.raises(ValueError, match="not a JSON object"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_json(tmp_path / "config.json")
