"""Near-duplicates among accepted prompts, named after the oldest."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake.split_groups import split_groups

NINE = "one two three four five six seven eight nine"


def written(path: Path, rows: dict[str, int | None]) -> Path:
    """A file with these prompts and the day of each."""
    days = [None if day is None else datetime(2026, 1, day, tzinfo=UTC) for day in rows.values()]
    created = pa.array(days, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"prompt": list(rows), "created_at": created}), path)
    return path


def test_a_group_has_the_name_of_its_oldest_prompt(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {f"{NINE} ten": 5, f"{NINE} other": None, "a cat": 1})
    b = written(tmp_path / "b", {f"{NINE.upper()}, new!": 3, "a dog": 2})
    expected = {f"{NINE} ten": f"{NINE} new", f"{NINE} other": f"{NINE} new"}
    assert split_groups([a, b]) == split_groups([b, a]) == expected


def test_the_first_comparison_of_a_spelling_counts_and_undated_prompts_come_last(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {f"{NINE} b": 5, f"{NINE} a": None})
    b = written(tmp_path / "b", {f"{NINE} A!": 4})
    assert split_groups([a, b]) == {f"{NINE} b": f"{NINE} a"}
    undated = written(tmp_path / "c", {f"{NINE} b": None, f"{NINE} a": None})
    assert split_groups([undated]) == {f"{NINE} b": f"{NINE} a"}
    assert split_groups([]) == {}


def test_prompts_of_other_files_join_groups_and_name_none_that_has_a_prompt_of_the_first(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {f"{NINE} ten": 5, "a cat": None})
    older = written(tmp_path / "b", {f"{NINE} old": 1, f"{NINE} ten": 1, "a cat!": 2, "a dog": 1})
    assert split_groups([a], [older]) == {f"{NINE} old": f"{NINE} ten"}
    assert split_groups([a]) == split_groups([a], []) == {}
    alone = written(tmp_path / "c", {f"{NINE} b": 2, f"{NINE} a": 1})
    assert split_groups([], [alone]) == {f"{NINE} b": f"{NINE} a"}


def test_prompts_of_other_files_join_no_two_groups(tmp_path: Path) -> None:
    """Likes move no pair to another split: not even one whose prompt is near to two that are not near each other."""
    words = [f"w{number}" for number in range(20)]
    left, bridge, right = (" ".join([*words[shift : 18 + shift], "end"]) for shift in (0, 1, 2))
    pairs = written(tmp_path / "a", {left: 5, right: 4})
    assert split_groups([pairs]) == {}
    likes = written(tmp_path / "b", {bridge: 1})
    assert split_groups([pairs, likes]) == {left: bridge, right: bridge}, "a bridge"
    assert split_groups([pairs], [likes]) == {bridge: right}
