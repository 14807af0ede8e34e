"""Texts that may be prompts, and those that may not."""

import pytest

from alignment.contracts.prompt_text import prompt_fault


def test_letters_of_every_script_and_joined_emoji_are_prompts() -> None:
    for text in ("قطة", "ネコ", "👩‍🚀 on the moon", "a" * 4000):
        assert prompt_fault(text) == ""


@pytest.mark.parametrize(("text", "name"), [("a\x00", "U+0000"), ("\x1b[31m", "U+001B"), ("\u202etac", "U+202E")])
def test_a_control_character_is_named(text: str, name: str) -> None:
    assert prompt_fault(text) == f"contains the control character {name}"


def test_a_long_text_is_no_prompt() -> None:
    assert prompt_fault("a" * 4001) == "is 4001 characters long, at most 4000 are allowed"
