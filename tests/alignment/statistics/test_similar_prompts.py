"""Near-duplicates among many prompts: exactly those that comparing all pairs finds."""

import numpy as np
import pytest
from rapidfuzz.distance import Indel

from alignment.statistics import similar_prompts
from alignment.statistics.prompt_groups import group_prompts
from alignment.statistics.prompts import EvalPrompt
from alignment.statistics.similar_prompts import SIMILAR, NearPrompts, _are_near, similar_groups


def drawn(count: int, seed: int) -> list[str]:
    """Prompts of few words, so that many are near-duplicates, some with repeated words and some of one word."""
    rng = np.random.default_rng(seed)
    bases = [rng.choice(list("abcdefghijkl"), size=rng.integers(1, 25)).tolist() for _ in range(count // 4)]
    found = []
    for _ in range(count):
        words = list(bases[rng.integers(len(bases))])
        for _ in range(rng.integers(0, 3)):
            place = int(rng.integers(len(words) + 1))
            words[place : place + int(rng.integers(0, 2))] = rng.choice(
                list("abcxyz"), size=rng.integers(0, 2)
            ).tolist()
        found.append(" ".join(words) or "only")
    return found


@pytest.mark.parametrize("many", [0, 10_000])
def test_groups_are_those_of_comparing_all_pairs(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_prompts, "_MANY", many)
    for seed in range(20):
        prompts = drawn(80, seed)
        expected = group_prompts([EvalPrompt(place, prompt, "") for place, prompt in enumerate(prompts)])
        assert similar_groups(prompts) == expected
        assert len(set(expected)) < 80, "the draw has near-duplicates"


@pytest.mark.parametrize("many", [0, 10_000])
def test_words_of_one_prompt_count_as_words_that_differ(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_prompts, "_MANY", many)
    shared = [f"w{number}" for number in range(18)]
    prompts = [
        " ".join([*shared[:length], *(f"own{place}{k}" for k in range(unique))])
        for place, (length, unique) in enumerate([(18, 2), (18, 2), (18, 3), (17, 1), (9, 1), (9, 1), (9, 2)])
    ]
    expected = group_prompts([EvalPrompt(place, prompt, "") for place, prompt in enumerate(prompts)])
    assert similar_groups(prompts) == expected
    assert len(set(expected)) not in (1, len(prompts))
    for one in range(1, 60):
        for other in range(1, 60):
            for common in range(min(one, other) + 1):
                a, b = ([*range(common), *range(base, base + n - common)] for base, n in ((1000, one), (2000, other)))
                assert _are_near(tuple(map(str, a)), tuple(map(str, b)), one + other) == (
                    Indel.normalized_similarity(a, b, score_cutoff=SIMILAR) > 0
                )


def test_every_near_prompt_is_found_and_no_other() -> None:
    for seed in range(20):
        known, asked = drawn(40, seed), drawn(40, seed)[::2] + drawn(40, seed + 100)
        near = NearPrompts(known)
        for prompt in asked:
            measure = max(Indel.normalized_similarity(prompt.split(), own.split()) for own in known)
            assert near.is_near(prompt) == (measure >= SIMILAR)


def test_no_prompts_and_short_templates() -> None:
    assert similar_groups([]) == []
    assert not NearPrompts([]).is_near("a cat")
    known = NearPrompts(["a small red circle on a black background"])
    assert not known.is_near("a small red square on a black background")
    assert known.is_near("a small red circle on a plain black background")
