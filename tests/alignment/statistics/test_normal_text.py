"""One normal form for every spelling of a prompt that a person reads alike."""

import unicodedata

import pytest

from alignment.statistics.normal_text import look_alike, normal_prompt, visible


@pytest.mark.parametrize(
    "prompt",
    [
        *("a red circle", "A  red—circle!", "ａ　ＲＥＤ circle", "a\tred\ncircle...", "“a” (red) circle"),
        "a r\u200bed cir\u00adcle",  # zero-width space, soft hyphen
        "a\u2060 re\u034fd\ufe0f circle\U000e0041",  # word joiner, grapheme joiner, selector, tag
        "a red\u3164 circle\u2800\uffa0",  # fillers, blank Braille
        "а rеd сirсlе",  # Cyrillic a, e, c
        "а RЕD СIRСLЕ",
        "\U0001d41a \U0001d42b\U0001d41e\U0001d41d circle",  # mathematical letters
        "ɑ red circle",
    ],
)
def test_spellings_of_one_prompt_are_equal(prompt: str) -> None:
    assert normal_prompt(prompt) == "a red circle"


def test_different_prompts_stay_different() -> None:
    pairs = [
        ("a red circle 2", "a red circle 3"),
        ("clear 1", "clear l"),
        ("modem", "modern"),
        ("résumé", "resume"),
        ("красный круг", "красный куб"),
        ("\U0001f408", "\U0001f415"),
    ]
    for one, other in pairs:
        assert normal_prompt(one) != normal_prompt(other)


def test_case_does_not_count_in_any_alphabet_and_punctuation_alone_stays() -> None:
    for lower in ("красный круг на воде", "ένας κόκκινος κύκλος", "straße"):
        assert normal_prompt(lower) == normal_prompt(lower.upper())
    assert normal_prompt("STRASSE") == normal_prompt("straße")
    assert (normal_prompt("!!!"), normal_prompt(" \u200b ")) == ("!!!", "")


def test_an_ascii_prompt_has_the_form_of_the_general_rule() -> None:
    every = "".join(map(chr, range(128)))
    general = "".join(c if unicodedata.category(c)[0] not in "PZCS" else " " for c in every.casefold())
    assert normal_prompt(every) == " ".join(general.split())


def test_a_capital_that_looks_like_another_counts_in_both_cases() -> None:
    assert (look_alike("в"), look_alike("а"), look_alike("ж"), look_alike("é"), look_alike("1")) == (
        *("b", "a", "ж", "é", "1"),
    )


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("", False), (" \n\t", False), ("\u200b\u2060", False), ("\u3164", False), ("\u2800\u2800", False),
        ("\ufe0f\U000e0020", False), ("\x07", False), ("x", True), ("!", True), ("\U0001f408", True), ("é", True),
        ("\u200bx", True),
    ],
)  # fmt: skip
def test_prompts_that_show_nothing(prompt: str, shown: bool) -> None:
    assert visible(prompt) == shown
