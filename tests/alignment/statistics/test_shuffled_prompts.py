"""The wrong prompts: another text for every prompt, and the same pairing every time."""

from alignment.statistics.prompts import EvalPrompt
from alignment.statistics.shuffled_prompts import shuffled_prompts


def prompts(*texts: str) -> list[EvalPrompt]:
    return [EvalPrompt(index, text, "any") for index, text in enumerate(texts)]


def test_no_prompt_is_paired_with_its_own_text_even_where_texts_repeat() -> None:
    given = prompts("a", "b", "a", "c", "b", "d")
    for seed in ("x", "y", "z"):
        wrong = shuffled_prompts(given, seed)
        assert set(wrong) == set(range(6))
        assert all(wrong[prompt.index] != prompt.text for prompt in given)
        assert {wrong[0], wrong[1], wrong[3], wrong[5]} == {"a", "b", "c", "d"}
        assert wrong[0] == wrong[2]


def test_the_pairing_follows_from_the_seed() -> None:
    given = prompts(*"abcdefgh")
    assert shuffled_prompts(given, "x") == shuffled_prompts(list(given), "x")
    assert shuffled_prompts(given, "x") != shuffled_prompts(given, "y")


def test_one_text_has_no_other() -> None:
    assert shuffled_prompts(prompts("a", "a"), "x") == {}
