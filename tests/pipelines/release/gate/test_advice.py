"""The advice agrees with the gate's own code, and names what a project lacks."""

from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest

from pipelines.project.gate import GatePolicy, PowerRule
from pipelines.release.gate.advice import (
    ASSUMED,
    PUBLISHED,
    Advice,
    AdvisedJudge,
    _admission_chance,
    _promoted_share,
    advise,
    planned_judge,
)
from pipelines.release.gate.checks.power import _vote_power
from pipelines.release.gate.simulated_worlds import World, among_people
from pipelines.release.gate.simulation import operating_curve

CONFIDENCE = 0.95


def judges(*agreements: float, encoders: str = "", pairs: int = 1000) -> list[AdvisedJudge]:
    names = encoders or "abcdefgh"
    return [
        AdvisedJudge(judge=f"judge_{i}", encoder=names[i], agreement=own, basis="measured", pairs=pairs)
        for i, own in enumerate(agreements)
    ]


def policy(preset: str = "standard", **fields: Any) -> GatePolicy:
    return GatePolicy.model_validate({"preset": preset, **fields})


def advice(own: GatePolicy, known: list[AdvisedJudge], **facts: Any) -> Advice:
    given: dict[str, Any] = {"prompts": 1600, "seeds": 2, "human_pairs": 1000, "approvers": 1, "confidence": CONFIDENCE}
    return advise("shapes", own, known, **{**given, **facts})


@pytest.mark.parametrize(
    ("preset", "agreements", "prompts"),
    [("small", (0.65,), 300), ("standard", (0.65, 0.65, 0.65), 1000), ("strict", (0.7, 0.7, 0.7), 1000)],
)
def test_the_smallest_win_rate_is_promoted_that_often_by_the_gate_itself(
    preset: str, agreements: tuple[float, ...], prompts: int
) -> None:
    """The simulated judges correlate, so the advice, a lower bound, lies below the simulated share, but not far."""
    own = policy(preset)
    row = next(r for r in advice(own, judges(*agreements), prompts=prompts).policies if r.policy == preset)
    assert row.shown_in_80 is not None
    world = World(policy=own, num_prompts=prompts, num_judges=len(agreements), accuracy=agreements[0])
    simulations = 300
    (found,) = operating_curve(world, [among_people(row.shown_in_80, agreements[0])], simulations=simulations)
    noise = 4 * (0.8 * 0.2 / simulations) ** 0.5
    assert 0.8 - noise <= found.promoted <= 0.97


def test_more_prompts_better_judges_and_larger_gains_are_promoted_more_often() -> None:
    def share(win_rate: float = 0.6, prompts: int = 800, agreement: float = 0.65, **fields: Any) -> float:
        known = judges(*(agreement,) * 3)
        return _promoted_share(policy(**fields), known, win_rate=win_rate, prompts=prompts, confidence=CONFIDENCE)

    plain = share()
    assert 0 < plain < share(prompts=1600) < 1
    assert plain < share(agreement=0.7)
    assert plain < share(win_rate=0.65)
    assert plain > share(required_judges=3)
    assert plain > share(superiority="win_rate")
    assert plain > share(quarterly_error=0.01)
    assert share(win_rate=0.5) < 0.025


def test_two_of_three_judges_are_counted_as_the_gate_counts_them() -> None:
    """Each vote has half the level, and the judges may err together: the same as the check `power`."""
    own = policy(minimum_win_rate=0.3)
    found = _promoted_share(
        own, judges(1.0, 1.0, 1.0), win_rate=NormalDist().cdf(0.1), prompts=1000, confidence=CONFIDENCE
    )
    assert found == pytest.approx(
        _vote_power(
            own.model_copy(update={"power": PowerRule(effect=0.1)}), judges=3, level=0.025, minimum=0.3, tie_share=0
        )(1000),
        rel=1e-6,
    )


def test_judges_with_one_encoder_count_once() -> None:
    def share(encoders: str) -> float:
        known = judges(0.65, 0.65, encoders=encoders)
        return _promoted_share(policy(), known, win_rate=0.7, prompts=1600, confidence=CONFIDENCE)

    assert share("aa") == 0
    assert share("ab") > 0.9


def test_the_chance_to_vote_is_that_of_the_wilson_bound() -> None:
    """21 of 30 has the lower bound 0.521, 20 of 30 has 0.488 (Wilson, 95 %)."""
    from scipy import stats

    half = policy(calibration_floor=0.5, minimum_calibration_pairs=30)
    assert _admission_chance(0.65, 30, half, CONFIDENCE) == pytest.approx(stats.binom.sf(20, 30, 0.65), rel=1e-9)
    assert _admission_chance(0.65, 29, half, CONFIDENCE) == 0
    assert _admission_chance(0.65, 500, policy(), CONFIDENCE) > 0.99


def test_an_agreement_is_measured_published_or_assumed() -> None:
    def plan(kind: str, accuracy: float | None, pairs: int) -> tuple[float, str]:
        found = planned_judge("j", kind, "e", accuracy=accuracy, pairs=pairs)
        return found.agreement, found.basis

    assert plan("pickscore", 0.7, 100) == (0.7, "measured")
    assert plan("pickscore", 0.4, 100) == (0.5, "measured")
    assert plan("pickscore", 0.9, 99) == (PUBLISHED["pickscore"], "published")
    assert plan("clip_preference", None, 0) == (ASSUMED, "assumed")


def test_thirty_pairs_and_one_judge_fit_small_alone() -> None:
    found = advice(policy("small"), judges(0.65, pairs=30), prompts=500, human_pairs=30)
    assert {row.policy: row.fits for row in found.policies} == {
        "this project": True,
        "small": True,
        "standard": False,
        "strict": False,
    }
    assert found.advised == "small"
    assert found.sentences[0].startswith('Use preset = "small". It promotes gains from a win rate of')
    standard = found.policies[2]
    assert standard.lacks == (
        "judges: 1 of 2",
        "encoder families of judges: 1 of 2",
        "human pairs for calibration: 30 of 200",
    )
    alone = advice(policy("small"), judges(0.65, pairs=30), prompts=500, human_pairs=30, approvers=0)
    assert alone.advised is None
    assert "promote --by-hand" in alone.sentences[0]
    assert "[approval]" in alone.sentences[0]


def test_the_strictest_preset_that_fits_is_advised_with_what_shows_more() -> None:
    found = advice(policy(), judges(0.66, 0.66, 0.66))
    assert found.advised == "strict"
    assert advice(policy(), judges(0.66, 0.66, 0.66), prompts=800).advised == "standard"
    needed = [row.prompts_for_90 for row in found.to_show_more]
    assert all(a is None or b is None or a >= b for a, b in pairwise(needed))
    assert all((row.prompts_for_80 or 0) <= (row.prompts_for_90 or 10**9) for row in found.to_show_more)
    assert [row.prompts_for_90_with_better_judges for row in found.to_show_more] != needed


def test_a_judge_that_will_hardly_be_admitted_is_named_with_the_pairs_that_it_needs() -> None:
    found = advice(policy(), judges(0.56, 0.56, pairs=0), human_pairs=200)
    (row,) = [row for row in found.policies if row.policy == "standard"]
    assert not row.fits
    assert "judge_0 would be admitted to vote in" in row.lacks[0]
    hopeless = advice(policy(), judges(0.5, 0.5), human_pairs=2000)
    assert "no number of pairs is enough" in hopeless.policies[2].lacks[0]
    assert hopeless.advised != "standard"
