"""The order of trials is the same whether interrupted or not, stays within the hours, and a trial without score is
worst.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.jobs import Placement
from pipelines.project.search import SearchSection
from pipelines.search.ranking import Limits, TrialReport
from pipelines.search.space import Proposal, Space, Start
from pipelines.search.study import finished, open_study, run_study

Make = Callable[..., TrialReport]
HOURS = Limits(memory_gib=24.0, hours=100.0)
DIGEST = "5" * 64


class Killed(BaseException):
    """Simulates a SIGKILL: no code catches it."""


def space(**section: Any) -> Space:
    return Space(
        section=SearchSection(**{"trials": 8, "micro_batches": (4, 16), "seed": 3, **section}),
        starts={name: Start(recipe=name) for name in ("diffusion_dpo_shapes", "mapo_shapes")},
        placement=Placement(),
    )


class Bench:
    """Prefers a learning rate of 3e-5; killed at a given call."""

    def __init__(self, make: Make, killed_at: int = -1, **changes: Any) -> None:
        self.make, self.killed_at, self.changes = make, killed_at, changes
        self.proposals: list[Proposal] = []

    def __call__(self, proposal: Proposal, seconds_left: float) -> TrialReport:
        self.proposals.append(proposal)
        if len(self.proposals) - 1 == self.killed_at:
            raise Killed
        gain = -abs(proposal.recipe.optimiser.learning_rate - 3e-5) * 1e5
        return self.make(gain, recipe=proposal.start, changes=proposal.changes, **self.changes)


def run(folder: Path, bench: Bench, searched: Space, limits: Limits = HOURS) -> dict[int, TrialReport]:
    return run_study(open_study(folder, DIGEST), searched, bench, limits=limits)


def test_the_starting_recipes_come_first_as_they_are(tmp_path: Path, report: Make) -> None:
    bench = Bench(report)
    trials = run(tmp_path, bench, space())
    assert len(trials) == len(bench.proposals) == 8
    assert [p.recipe.name for p in bench.proposals[:2]] == ["diffusion_dpo_shapes", "mapo_shapes"]
    assert [p.changes for p in bench.proposals[:2]] == [(), ()]
    assert all(p.changes for p in bench.proposals[2:])


@pytest.mark.parametrize("killed_at", [0, 1, 3, 6])
def test_a_killed_search_continues_as_if_it_had_not_been_killed(tmp_path: Path, report: Make, killed_at: int) -> None:
    undisturbed, first, second = Bench(report), Bench(report, killed_at=killed_at), Bench(report)
    expected = run(tmp_path / "a", undisturbed, space())
    with pytest.raises(Killed):
        run(tmp_path / "b", first, space())
    assert run(tmp_path / "b", second, space()) == expected
    assert len(second.proposals) == 8 - killed_at
    assert second.proposals[0] == first.proposals[-1]
    assert [*first.proposals[:-1], *second.proposals] == undisturbed.proposals


def test_a_finished_search_repeats_nothing_and_more_trials_continue_it(tmp_path: Path, report: Make) -> None:
    bench = Bench(report)
    trials = run(tmp_path, bench, space(trials=3))
    assert run(tmp_path, bench, space(trials=3)) == trials
    assert len(bench.proposals) == 3
    assert len(run(tmp_path, bench, space(trials=5))) == 5


def test_another_seed_proposes_something_else(tmp_path: Path, report: Make) -> None:
    one, two = Bench(report), Bench(report)
    run(tmp_path / "a", one, space(seed=1))
    run(tmp_path / "b", two, space(seed=2))
    assert one.proposals[2:] != two.proposals[2:]


def test_the_optimiser_receives_the_gain(tmp_path: Path, report: Make) -> None:
    study = open_study(tmp_path, DIGEST)
    trials = run_study(study, space(), Bench(report), limits=HOURS)
    best = max(trials, key=lambda n: trials[n].against_base.mean_difference)  # type: ignore[union-attr]
    assert study.best_trial.number == best


def test_trials_without_a_score_are_remembered_and_not_repeated(tmp_path: Path, report: Make) -> None:
    bench = Bench(report, outcome="diverged", against_base=None, reason="diverged")
    trials = run(tmp_path, bench, space(trials=4))
    assert [trial.outcome for trial in trials.values()] == ["diverged"] * 4
    assert finished(open_study(tmp_path, DIGEST)) == trials


def test_an_invalid_proposal_is_a_report(tmp_path: Path, report: Make) -> None:
    searched = space(trials=6, factors={"objective.beta": (1e-9, 1.0)})
    searched = searched.model_copy(update={"starts": {"m": Start(recipe="mapo_paper_shapes")}})
    trials = run(tmp_path, Bench(report), searched)
    assert trials[0].outcome == "measured"
    invalid = [trial for trial in trials.values() if trial.outcome == "invalid"]
    assert len(trials) == 6
    assert len(invalid) >= 3
    assert all("greater than or equal to 1" in trial.reason for trial in invalid)


def test_stops_while_the_best_can_still_be_run(tmp_path: Path, report: Make) -> None:
    """0.25 h a trial and 0.5 h for the winner: of two hours, six trials may be used."""
    bench = Bench(report, seconds=900.0, final_run_hours=0.5)
    assert len(run(tmp_path, bench, space(), Limits(memory_gib=1.0, hours=2.0))) == 6


def test_time_that_is_left_goes_down(tmp_path: Path, report: Make) -> None:
    left: list[float] = []
    bench = Bench(report, seconds=600.0)

    def measure(proposal: Proposal, seconds_left: float) -> TrialReport:
        left.append(seconds_left)
        return bench(proposal, seconds_left)

    run_study(open_study(tmp_path, DIGEST), space(trials=3), measure, limits=Limits(memory_gib=1.0, hours=2.0))
    assert left == [7200.0, 6600.0, 6000.0]
