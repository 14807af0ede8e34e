"""Which pairs a ballot shows, in which order, and on which side."""

from collections import Counter

import pytest

from alignment.statistics.prompts import EvalPrompt
from pipelines.platform.ballot.pairs import BallotModel, BallotPair, blind_pairs

MODELS = (BallotModel("tiny version 3 cc", "file:///s/c"), BallotModel("tiny base bb", "file:///s/b"))
PROMPTS = [EvalPrompt(index, f"prompt {index}", "any") for index in range(400)]


def pairs_of(annotator: str = "ada", *, prompts: list[EvalPrompt] = PROMPTS, **changes: object) -> list[BallotPair]:
    given: dict[str, object] = {"seeds": (0, 1), "subject": "e", "most": 1000, **changes}
    return blind_pairs(prompts, MODELS, annotator=annotator, **given)  # type: ignore[arg-type]


def test_the_same_ballot_is_the_same_again_and_that_of_another_person_is_not() -> None:
    assert pairs_of() == pairs_of()
    other = pairs_of("bob")
    assert {pair.prompt for pair in other} == {pair.prompt for pair in pairs_of()}
    assert [pair.prompt for pair in other] != [pair.prompt for pair in pairs_of()]
    assert not {pair.key for pair in other} & {pair.key for pair in pairs_of()}
    assert not {pair.key for pair in pairs_of(subject="f")} & {pair.key for pair in pairs_of()}


def test_each_side_has_each_model_about_as_often_and_independently_of_seed_and_person() -> None:
    ada, bob = pairs_of(), {pair.prompt: pair for pair in pairs_of("bob")}
    left = [pair.left.generator == MODELS[0].generator for pair in ada]
    assert 150 < sum(left) < 250, "a fair coin leaves this range once in two million ballots"
    same = [pair.left == bob[pair.prompt].left for pair in ada]
    assert 150 < sum(same) < 250
    seeds = Counter((pair.left.uri[-5], side) for pair, side in zip(ada, left, strict=True))
    assert min(seeds.values()) > 60
    for pair in ada:
        assert {pair.left.generator, pair.right.generator} == {model.generator for model in MODELS}
        assert pair.left.uri.rpartition("/")[2] == pair.right.uri.rpartition("/")[2]
        assert pair.left.uri.rpartition("/")[2].startswith(f"{int(pair.prompt.split()[1]):05d}_")


def test_two_people_see_the_same_images_of_a_prompt() -> None:
    seen = [{pair.prompt: {pair.left.uri, pair.right.uri} for pair in pairs_of(name)} for name in ("ada", "bob")]
    assert seen[0] == seen[1]


def test_the_prompts_that_nobody_sees_are_the_same_for_all() -> None:
    left_out = {
        name: {p.text for p in PROMPTS} - {p.prompt for p in pairs_of(name, spare=2)} for name in ("ada", "bob")
    }
    assert left_out["ada"] == left_out["bob"]
    assert len(left_out["ada"]) == 2
    assert pairs_of(prompts=PROMPTS[:2], spare=2) == []


def test_of_near_duplicates_one_is_shown() -> None:
    alike = [EvalPrompt(p.index, p.text, "any", str(p.index - p.index % 4)) for p in PROMPTS]
    shown = [int(pair.prompt.split()[1]) for pair in pairs_of(prompts=alike)]
    assert sorted(index - index % 4 for index in shown) == list(range(0, 400, 4))
    assert len({index % 4 for index in shown}) == 4, "not always the first"
    ungrouped = [EvalPrompt(p.index, p.text, "any", "") for p in PROMPTS]
    assert len(pairs_of(prompts=ungrouped)) == 400


@pytest.mark.parametrize("most", [1, 30])
def test_a_shorter_ballot_is_the_beginning_of_a_longer_one(most: int) -> None:
    assert pairs_of(most=most) == pairs_of()[:most]
