"""Perturbation: the words changed at each level, the inputs that determine it, and its invariants."""

from itertools import product

import pytest

from alignment.contracts.captions import Level, Perturbation
from alignment.labelling.perturbation import LEVELS, perturbed, vocabulary

TEXT = "a small red circle on a white background near two tall green trees in old park today and every quiet night"
WORDS = vocabulary([TEXT, "blue square large orange boat"])


def damage(text: str, level: Level, words: tuple[str, ...] = WORDS, *, seed: int = 0, pair_id: str = "p") -> str:
    return perturbed(text, words, perturbation=Perturbation(level=level, seed=seed), pair_id=pair_id)


def test_vocabulary_has_each_word_once_in_order() -> None:
    assert vocabulary(["b a", "a  c\n", ""]) == ("a", "b", "c")


@pytest.mark.parametrize(("level", "dropped", "replaced", "moved"), [("weak", 2, 4, 2), ("medium", 3, 6, 3)])
def test_a_level_drops_replaces_and_moves_its_shares_of_words(
    level: Level, dropped: int, replaced: int, moved: int
) -> None:
    words = [f"w{number}" for number in range(20)]
    strange = tuple(f"x{number}" for number in range(50))
    after = damage(" ".join(words), level, strange).split()
    assert len(after) == 20 - dropped
    assert sum(word.startswith("x") for word in after) == replaced
    kept = [word for word in after if word.startswith("w")]
    assert len(set(kept)) == len(kept) == 20 - dropped - replaced
    order = [int(word[1:]) for word in kept]
    in_place = longest_rise(order)
    assert 1 <= len(order) - in_place <= moved


def longest_rise(numbers: list[int]) -> int:
    """Length of the longest increasing subsequence: the number of words that stayed in order."""
    best: list[int] = []
    for index, number in enumerate(numbers):
        best.append(1 + max((best[i] for i in range(index) if numbers[i] < number), default=0))
    return max(best)


def test_levels_touch_the_shares_of_the_papers_three_settings() -> None:
    totals = {level: shares.drop + shares.replace + shares.shuffle for level, shares in LEVELS.items()}
    assert totals == pytest.approx({"weak": 0.4, "medium": 0.6, "strong": 0.8})


def test_fewer_of_the_words_survive_at_each_level() -> None:
    def survivors(level: Level) -> int:
        strange = tuple(f"x{number}" for number in range(50))
        return sum(len(set(TEXT.split()) & set(damage(TEXT, level, strange, seed=seed).split())) for seed in range(20))

    assert survivors("weak") > survivors("medium") > survivors("strong") > 0


def test_the_result_depends_on_text_seed_and_pair_only() -> None:
    assert damage(TEXT, "medium") == damage(TEXT, "medium")
    others = {damage(TEXT, "medium", seed=1), damage(TEXT, "medium", pair_id="q"), damage(TEXT, "medium")}
    assert len(others) == 3


def test_the_result_is_the_same_on_every_machine() -> None:
    assert damage("a small red circle on a white background", "medium") == "a small today circle white a background"


@pytest.mark.parametrize("level", LEVELS)
def test_no_text_becomes_empty_and_none_stays_unchanged(level: Level) -> None:
    for length in range(1, 6):
        for words in product(("a", "b"), repeat=length):
            text = " ".join(words)
            for seed in range(6):
                after = damage(text, level, ("a", "b", "c"), seed=seed)
                assert after
                assert after != text, (text, level, seed)


def test_without_other_words_one_is_dropped() -> None:
    assert damage("red red", "weak", ("red",)) == "red"
    assert damage("red red", "weak", ()) == "red"


def test_a_single_word_without_any_other_cannot_be_changed() -> None:
    assert damage("red", "strong", ("red",)) == "red"
    assert damage("red", "strong", ("blue", "red")) == "blue"


def test_every_other_word_can_be_drawn() -> None:
    drawn = {damage("b", "weak", ("a", "b", "c", "d"), seed=seed) for seed in range(60)}
    assert drawn == {"a", "c", "d"}


def test_an_empty_text_is_refused_and_its_pair_named() -> None:
    with pytest.raises(ValueError, match="Pair p7 has an empty text"):
        damage(" \n", "weak", pair_id="p7")
