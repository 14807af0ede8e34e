"""Groups of near-duplicate prompts."""

import pytest

from alignment.statistics.prompt_groups import count_groups, group_prompts
from alignment.statistics.prompts import EvalPrompt

GECKO = "portrait of a gecko wearing a train conductor's hat and holding a flag that has a yin-yang symbol on it, "


def prompts(*texts: str, category: str = "") -> list[EvalPrompt]:
    return [EvalPrompt(index, text, category) for index, text in enumerate(texts)]


def test_a_long_prompt_in_several_styles_is_one_prompt() -> None:
    own = prompts("a cat", GECKO + "charcoal", "a dog", GECKO + "Chinese ink", GECKO + "marble")
    assert group_prompts(own) == [0, 1, 2, 1, 1]
    assert count_groups(own) == 3


@pytest.mark.parametrize(
    "texts",
    [
        ("a photo of a clock", "a photo of a cow"),
        ("a small red circle on a black background", "a small red square on a black background"),
        ("a red cube to the left of a blue ball", "a blue cube to the left of a red ball"),
    ],
)
def test_short_prompts_of_one_template_and_exchanged_attributes_stay_apart(texts: tuple[str, str]) -> None:
    assert group_prompts(prompts(*texts)) == [0, 1]


def test_one_word_of_ten_may_differ() -> None:
    nine = "one two three four five six seven eight nine"
    assert group_prompts(prompts(f"{nine} ten", f"{nine} other")) == [0, 0]
    assert group_prompts(prompts(nine, f"{nine[:-4]} other")) == [0, 1]


def test_groups_are_found_within_a_category_only() -> None:
    own = [EvalPrompt(0, GECKO + "charcoal", "animals"), EvalPrompt(1, GECKO + "marble", "materials")]
    assert group_prompts(own) == [0, 1]


def test_named_groups_replace_the_search() -> None:
    own = [
        EvalPrompt(0, GECKO + "charcoal", "", ""),
        EvalPrompt(1, "a cat on a mat", "", "cat"),
        EvalPrompt(2, GECKO + "marble", "", ""),
        EvalPrompt(3, "a feline rests upon a rug", "", "cat"),
    ]
    assert group_prompts(own) == [0, 1, 2, 1]


def test_more_prompts_than_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.statistics.prompt_groups._ROWS", 2)
    texts = [f"{GECKO}{style}" for style in ("ink", "oil", "clay")] + ["a cat", "a dog"]
    assert group_prompts(prompts(*texts)) == [0, 0, 0, 3, 4]
