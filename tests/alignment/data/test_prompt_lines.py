"""Prompts files: random access without holding the text, and lines that are not prompts."""

import tracemalloc
from pathlib import Path

import pytest

from alignment.data.prompt_lines import PromptLines


def write(folder: Path, content: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(content)
    return path


def test_lines_in_any_order_without_empty_ones(tmp_path: Path) -> None:
    prompts = PromptLines(write(tmp_path, "a cat\r\n\n  ein Bär \n\n最後".encode()))
    assert len(prompts) == 3
    assert [prompts[index] for index in (2, 0, 1)] == ["最後", "a cat", "ein Bär"]


def test_a_hundred_thousand_prompts_cost_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(b"prompt %06d %s\n" % (number, b"x" * 150) for number in range(100_000)))
    tracemalloc.start()
    prompts = PromptLines(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(prompts) == 100_000
    assert prompts[99_999].startswith("prompt 099999 ")
    assert peak < path.stat().st_size / 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "holds no prompts"),
        (b"a cat\n\xff\xfe\n", "line 2, is not UTF-8"),
        (b"prompt\tcategory\na cat\tanimal\n", "line 1, contains a tab"),
    ],
)
def test_a_file_that_is_not_a_list_of_prompts_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptLines(write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        PromptLines(tmp_path / "nowhere.txt")


def test_a_control_character_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\na \x1b[31mdog\n")
    with pytest.raises(ValueError, match=r"line 2, contains the control character U\+001B"):
        PromptLines(tmp_path / "p.txt")
