"""Guards by every kind of rule: holding, broken, undecided, and impossible to ask."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alignment.statistics.comparison import ScoreTable, _compare
from alignment.statistics.score_grids import ScoreGrids
from pipelines.project.gate import GuardRule
from pipelines.release.gate.checks.guards import _mcnemar, guard_checks
from pipelines.release.gate.checks.interface import Evidence


def evidence_of(
    evaluation: Any,
    rule: GuardRule,
    scores: list[float] | None = None,
    *,
    champion: Sequence[float] = (1.0,) * 200,
    base: Sequence[float] | None = None,
    **policy: Any,
) -> Evidence:
    """Evidence with one rule for guard g; `scores` replaces the candidate's by prompt, `champion` the others'. With
    `base`, the champion is version 1, and the base another model with these scores.
    """
    columns, report = evaluation.columns, evaluation.report
    if scores is not None:
        values = list(columns["score"])
        for row, (role, scorer, prompt) in enumerate(
            zip(columns["role"], columns["scorer"], columns["prompt_index"], strict=True)
        ):
            if scorer == "g":
                values[row] = scores[prompt] if role == "candidate" else champion[prompt]
                if role == "base" and base is not None:
                    values[row] = base[prompt]
        evaluation = replace(evaluation, columns={**columns, "score": values})
        again = _compare(
            ScoreTable.from_columns(evaluation.columns), "g", "champion", tie_threshold=0.0, confidence=0.95
        )
        others = [c for c in report.comparisons if (c.scorer, c.against) != ("g", "champion")]
        report = report.model_copy(update={"comparisons": (*others, again)})
    return Evidence(
        report=report,
        scores=evaluation.scores,
        policy=evaluation.policy.model_copy(update={"guards": {"g": rule}, **policy}),
        candidate=evaluation.candidate,
        champion_version=None if base is None else 1,
        champion_weights_digest=evaluation.champion_weights_digest,
    )


def verdicts(evidence: Evidence) -> dict[str, str]:
    return {finding.check.name: finding.allows for finding in guard_checks(evidence)}


@pytest.fixture
def evaluation(evaluation_of: Callable[..., Any]) -> Any:
    """The guard's mean change is about 0, its interval about 0.14 either way, its level about 20."""
    return evaluation_of({"a": 0.6, "b": 0.6}, {"g": 0.0})


def test_that_no_guard_is_asked_for_is_a_warning(evaluation_of: Callable[..., Any]) -> None:
    bare = evaluation_of({"a": 0.6, "b": 0.6}, {})
    none = replace(evidence_of(bare, GuardRule(margin=1.0)), policy=bare.policy)
    (finding,) = guard_checks(none)
    assert (finding.check.name, finding.check.note, finding.check.passed) == ("guards", "warning", False)
    assert (finding.check.decisive, finding.allows) == (False, "promote")


@pytest.mark.parametrize(("margin", "allows"), [(0.5, "promote"), (0.05, "inconclusive")])
def test_a_margin_is_compared_with_the_bound(evaluation: Any, margin: float, allows: str) -> None:
    assert verdicts(evidence_of(evaluation, GuardRule(margin=margin))) == {"guard:g": allows}


def test_lower_is_better_turns_the_guard_round(evaluation_of: Callable[..., Any]) -> None:
    worse = evaluation_of({"a": 0.6, "b": 0.6}, {"g": 1.0})
    assert verdicts(evidence_of(worse, GuardRule(margin=0.5))) == {"guard:g": "promote"}
    assert verdicts(evidence_of(worse, GuardRule(margin=0.5, better="lower"))) == {"guard:g": "hold"}


def test_a_relative_margin_is_a_share_of_the_champions_mean(evaluation_of: Callable[..., Any]) -> None:
    loses_one_of_twenty = evaluation_of({"a": 0.6, "b": 0.6}, {"g": -1.0})
    for share, allows in ((0.08, "promote"), (0.05, "inconclusive"), (0.03, "hold")):
        (finding,) = guard_checks(evidence_of(loses_one_of_twenty, GuardRule(relative_margin=share)))
        assert finding.allows == allows
    assert finding.check.measured == pytest.approx(-0.057, abs=0.01)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_no_change_at_all_holds_where_no_loss_is_tolerated(evaluation: Any, better: Any) -> None:
    same, least = [1.0] * 200, [1.0] * 199
    for rule in (GuardRule(margin=0.0, better=better), GuardRule(relative_margin=0.0, better=better)):
        (finding,) = guard_checks(evidence_of(evaluation, rule, same))
        assert (finding.allows, finding.check.passed, finding.check.measured) == ("promote", True, 0.0)
        assert finding.check.required in (">= 0", "<= 0")
        for last, allows in ((2.0, "inconclusive"), (0.0, "inconclusive")):
            assert set(verdicts(evidence_of(evaluation, rule, [*least, last])).values()) == {allows}
    worse = [0.9 if better == "higher" else 1.1] * 200
    assert verdicts(evidence_of(evaluation, GuardRule(margin=0.1, better=better), worse)) == {"guard:g": "promote"}
    assert verdicts(evidence_of(evaluation, GuardRule(margin=0.05, better=better), worse)) == {"guard:g": "hold"}


def test_a_mean_equal_to_its_floor_holds_and_a_p_equal_to_its_level_does_not(evaluation: Any) -> None:
    assert verdicts(evidence_of(evaluation, GuardRule(floor=1.0), [1.0] * 200)) == {"guard:g:floor": "promote"}
    assert _mcnemar("g", 10, 0, level=2**-10, text="").finding().allows == "hold"
    assert _mcnemar("g", 9, 0, level=2**-10, text="").finding().allows == "promote"


def test_a_relative_margin_knows_that_the_champions_mean_is_measured_too(evaluation: Any) -> None:
    """A loss of 5 % on each prompt of a champion whose prompts differ widely: as a share of the champion's mean it is
    5 % for certain, however little is known of that mean."""
    champion = np.random.default_rng(0).exponential(size=200) ** 2
    lost = list(0.95 * champion)
    for share, allows in ((0.051, "promote"), (0.049, "hold")):
        evidence = evidence_of(evaluation, GuardRule(relative_margin=share), lost, champion=list(champion))
        assert verdicts(evidence) == {"guard:g:relative": allows}


def test_floor_and_ceiling_are_about_the_candidate_alone(evaluation: Any) -> None:
    assert verdicts(evidence_of(evaluation, GuardRule(floor=10.0, ceiling=15.0))) == {
        "guard:g:floor": "promote",
        "guard:g:ceiling": "hold",
    }


def test_a_yes_or_no_guard_counts_prompts(evaluation: Any) -> None:
    """Ten of 200 prompts fail where none did: exact McNemar p = 2^-10, Tango's bound of -5 points is about -9."""
    failing = [0.0] * 10 + [1.0] * 190
    (finding,) = guard_checks(evidence_of(evaluation, GuardRule(threshold=0.5), failing))
    assert (finding.check.name, finding.allows) == ("guard:g:mcnemar", "hold")
    assert finding.check.measured == pytest.approx(2**-10)
    (finding,) = guard_checks(evidence_of(evaluation, GuardRule(threshold=0.5, margin=0.1), failing))
    assert finding.allows == "promote"
    assert finding.check.measured == pytest.approx(-0.0896, abs=0.002)
    (finding,) = guard_checks(evidence_of(evaluation, GuardRule(threshold=0.5, margin=0.01), failing))
    assert finding.allows == "hold"


def test_the_cap_on_failing_prompts_is_absolute(evaluation: Any) -> None:
    rule = GuardRule(threshold=0.5, margin=0.2, floor=0.97)
    none, ten = [1.0] * 200, [0.0] * 10 + [1.0] * 190
    assert verdicts(evidence_of(evaluation, rule, none))["guard:g:floor"] == "promote"
    assert verdicts(evidence_of(evaluation, rule, ten))["guard:g:floor"] == "inconclusive"
    assert verdicts(evidence_of(evaluation, rule, [0.0] * 30 + [1.0] * 170))["guard:g:floor"] == "hold"


def test_a_guard_whose_grid_is_not_whole_is_invalid(evaluation: Any) -> None:
    columns = {name: values[:-1] for name, values in evaluation.columns.items()}
    evidence = evidence_of(replace(evaluation, columns=columns), GuardRule(margin=0.5))
    whole = guard_checks(evidence)
    broken = evidence_of(
        replace(evaluation, columns={n: [v for v, s in zip(vs, evaluation.columns["scorer"], strict=True) if s != "g"]
                                     for n, vs in evaluation.columns.items()}),
        GuardRule(margin=0.5),
    )  # fmt: skip
    assert [finding.allows for finding in whole] == ["promote"]
    assert [finding.allows for finding in guard_checks(broken)] == ["invalid"]


# --- the anchor -----------------------------------------------------------------------------------------------------


def around(mean: float) -> list[float]:
    """Scores of 200 prompts with this mean and a spread of 0.1."""
    return [mean + 0.1 * (-1) ** prompt for prompt in range(200)]


def test_small_losses_do_not_add_up_over_promotions(evaluation: Any) -> None:
    """Each candidate loses less than the margin against the champion before it; the third has lost more than two."""
    rule, found = GuardRule(margin=0.3), []
    for promotions in range(4):
        champion, candidate = around(5 - 0.22 * promotions), around(5 - 0.22 * (promotions + 1))
        found.append(verdicts(evidence_of(evaluation, rule, candidate, champion=champion, base=around(5.0))))
    assert {line["guard:g"] for line in found} == {"promote"}
    assert [line["guard:g:anchor"] for line in found] == ["promote", "promote", "hold", "hold"]


def test_the_anchor_has_its_own_margin_and_may_be_switched_off(evaluation: Any) -> None:
    scores, models = around(4.0), {"champion": around(4.0), "base": around(5.0)}
    for margin, allows in ((1.1, "promote"), (0.9, "hold")):
        rule = GuardRule(margin=0.3, anchor_margin=margin)
        assert verdicts(evidence_of(evaluation, rule, scores, **models))["guard:g:anchor"] == allows
    assert set(verdicts(evidence_of(evaluation, GuardRule(margin=0.3), scores, anchor="none", **models))) == {"guard:g"}


def test_the_base_as_champion_needs_no_anchor(evaluation: Any) -> None:
    assert set(verdicts(evidence_of(evaluation, GuardRule(margin=0.3), around(5.0)))) == {"guard:g"}


def test_relative_margins_and_thresholds_have_anchors_too(evaluation: Any) -> None:
    models = {"champion": around(8.0), "base": around(10.0)}
    (champion, anchor) = guard_checks(evidence_of(evaluation, GuardRule(relative_margin=0.08), around(8.0), **models))
    assert (champion.allows, anchor.allows) == ("promote", "hold")
    assert "% of the base model's mean, a loss of 16.00% is tolerated" in anchor.check.explanation
    bad = [0.0] * 40 + [1.0] * 160
    rule = GuardRule(margin=0.05, threshold=0.5)
    lines = verdicts(evidence_of(evaluation, rule, bad, champion=bad, base=[1.0] * 200))
    assert lines == {"guard:g": "promote", "guard:g:anchor": "hold"}


def earlier(evidence: Evidence, **scores: list[float]) -> Evidence:
    """The same evidence with versions promoted before, each with the guard's score of every prompt."""
    grid = evidence.scores.grid("g", "candidate")
    promoted = {
        int(version.removeprefix("v")): ScoreGrids(
            {("g", "candidate"): replace(grid, scores_NS=np.repeat(np.asarray(values)[:, None], 2, axis=1))}
        )
        for version, values in scores.items()
    }
    return replace(evidence, promoted=promoted)


def test_the_best_promoted_version_is_the_anchor_where_the_policy_says_so(evaluation: Any) -> None:
    """The candidate is better than the base and no worse than its champion, but far below version 2."""
    models = {"champion": around(5.2), "base": around(5.0)}
    for policy, allows in (("best", "hold"), ("base", "promote")):
        evidence = evidence_of(evaluation, GuardRule(margin=0.3), around(5.2), anchor=policy, **models)
        (_, anchor) = guard_checks(earlier(evidence, v1=around(5.1), v2=around(6.0), v3=around(5.5)))
        assert anchor.allows == allows
        assert ("against version 2 is" in anchor.check.explanation) == (policy == "best")
    (_, anchor) = guard_checks(
        earlier(evidence_of(evaluation, GuardRule(margin=0.3), around(5.2), anchor="best", **models))
    )
    assert "against the base model is" in anchor.check.explanation


def test_the_best_version_is_the_lowest_or_the_most_often_passing_where_the_rule_says_so(evaluation: Any) -> None:
    models: dict[str, Any] = {"champion": around(5.2), "base": around(5.0), "anchor": "best"}
    lower = evidence_of(evaluation, GuardRule(margin=0.05, better="lower"), around(5.2), **models)
    (_, anchor) = guard_checks(earlier(lower, v1=around(4.0), v2=around(6.0)))
    assert (anchor.allows, "against version 1 is" in anchor.check.explanation) == ("hold", True)
    relative = evidence_of(evaluation, GuardRule(relative_margin=0.05), around(5.2), **models)
    (_, anchor) = guard_checks(earlier(relative, v1=around(5.1), v4=around(6.0)))
    assert (anchor.allows, "of version 4's mean" in anchor.check.explanation) == ("hold", True)
    bad, some = [0.0] * 40 + [1.0] * 160, [0.0] * 39 + [1.0] * 161
    models = {"champion": bad, "base": some, "anchor": "best"}
    share = evidence_of(evaluation, GuardRule(margin=0.05, threshold=0.5), bad, **models)
    (_, anchor) = guard_checks(earlier(share, v7=[1.0] * 200))
    assert (anchor.allows, "against version 7 40 prompts worsened" in anchor.check.explanation) == ("hold", True)
