"""The prompts file."""

from pathlib import Path

import pytest

from alignment.statistics.prompts import read_prompts


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "prompts.tsv"
    path.write_text(content, encoding="utf-8")
    return path


def test_prompts_keep_their_order_and_category(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "prompt\tcategory\na cat\tanimals\nÜber\u2028uns\t\n"))
    assert [(p.index, p.text, p.category) for p in prompts] == [(0, "a cat", "animals"), (1, "Über\u2028uns", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "header"),
        ("a cat\tanimals\n", "header"),
        ("prompt\tcategory\n", "there are no prompts"),
        ("prompt\tcategory\na cat\n", "lines 2 are not"),
        ("prompt\tcategory\na\tb\n \tb\na\tb\tc\n", "lines 3, 4 are not"),
        ("prompt\tcategory\na\tb\n\na\tb\n", "lines 3 are not"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts(written(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a cat\x00", r"line 2 contains the control character U\+0000"),
        ("\x1b[31ma cat", r"U\+001B"),
        ("a \u202etac", r"U\+202E"),
        ("a" * 4001, "line 2 is 4001 characters long, at most 4000"),
    ],
)
def test_a_text_that_pages_and_terminals_would_not_show_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    for line in (f"{text}\tanimals", f"a cat\t{text}"):
        with pytest.raises(ValueError, match=fault):
            read_prompts(written(tmp_path, f"prompt\tcategory\n{line}\n"))


def test_a_byte_order_mark_and_windows_line_ends_are_not_part_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.tsv"
    path.write_bytes(b"\xef\xbb\xbfprompt\tcategory\r\na cat\tanimals\r\n")
    assert [(p.text, p.category) for p in read_prompts(path)] == [("a cat", "animals")]


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "absent.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "binary.tsv")


def test_a_repeated_prompt_is_refused_by_line(tmp_path: Path) -> None:
    lines = ["a cat", "A dog", "a  CAT!", "a mouse", "a dog.", "a cat?"]
    path = written(tmp_path, "prompt\tcategory\n" + "".join(f"{line}\tany\n" for line in lines))
    with pytest.raises(ValueError, match=r"has 2 repeated prompts.* 'a cat' on lines 2, 4, 7; 'A dog' on"):
        read_prompts(path)


def test_a_group_column_is_read_and_must_be_whole(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "prompt\tcategory\tgroup\na cat\tanimals\tcats\na dog\tanimals\t\n"))
    assert [p.group for p in prompts] == ["cats", ""]
    with pytest.raises(ValueError, match=r"lines 2 are not 'prompt<TAB>category<TAB>group'"):
        read_prompts(written(tmp_path, "prompt\tcategory\tgroup\na cat\tanimals\n"))


def test_a_group_has_one_category(tmp_path: Path) -> None:
    torn = "prompt\tcategory\tgroup\na cat\tanimals\tcats\na feline\tpets\tcats\n"
    with pytest.raises(ValueError, match="'cats' in 'animals', 'pets'"):
        read_prompts(written(tmp_path, torn))
