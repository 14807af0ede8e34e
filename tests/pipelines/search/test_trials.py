"""One trial: its jobs, the limits that it may exceed, and figures read from its output."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.catalogues.objectives import DiffusionDPO, MaPO
from alignment.config import load_recipe
from alignment.contracts.evaluation import EvalSpec
from alignment.contracts.training import Lora, TrainResult
from pipelines.dispatch import jobs
from pipelines.dispatch.sizing.memory import Denoiser
from pipelines.dispatch.sizing.weights import base_weights
from pipelines.project.sections import JudgeSection
from pipelines.search.ranking import Limits, TrialReport
from pipelines.search.recipe_search import _space_of
from pipelines.search.space import Proposal
from pipelines.search.trials import REFERENCE_TIME, TrialBench, _read_figures, _with_figures
from pipelines.search.validation import for_validation
from pipelines.workspace import Workspace

HOUR = 3600.0


class Unchanged:
    """Always the first choice and no factor."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return 1.0

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[0]


@pytest.fixture
def bench(world: Any) -> TrialBench:
    project = world.with_section(trial_steps=20)
    judge: JudgeSection = project.evaluation.judges[0]
    return TrialBench(
        project=for_validation(Workspace(project, world.settings), world.snapshot, judge),
        settings=world.settings,
        snapshot=world.snapshot,
        limits=Limits(memory_gib=4.0, hours=1.0),
        denoiser=Denoiser(base_weights(world.folder / "examples/shapes/base"), ()),
        run_job=world.engine,
    )


@pytest.fixture
def proposal(bench: TrialBench) -> Proposal:
    return _space_of(bench.project).propose(Unchanged())


def test_a_trial_encodes_trains_and_is_judged_on_the_validation_prompts(
    world: Any, bench: TrialBench, proposal: Proposal
) -> None:
    report = bench.measure(proposal, HOUR)
    assert world.engine.kinds() == ["encode", "train", "evaluate"]
    _, train, evaluate = world.engine.ran
    assert train.spec["recipe"]["steps"] == 20
    assert train.placement.sample_prompts == ()
    spec = EvalSpec.model_validate(evaluate.spec)
    assert [judge.name for judge in spec.judges] == ["taste_a"]
    assert (spec.guards, spec.seeds) == ((), (0, 1))
    assert spec.champion.kind == "base"
    assert report.outcome == "measured"
    assert report.spec_digest == train.spec_digest
    assert report.against_base is not None
    # the learning rate is 1e-5, two steps of the made-up scale away from the best: 1 - 2 + jitter that cancels
    assert report.against_base.mean_difference == pytest.approx(-1.0)


def test_figures_of_a_trial(bench: TrialBench, proposal: Proposal) -> None:
    """200 steps of 32 pairs at 10 a second are 640 seconds."""
    report = bench.measure(proposal, HOUR)
    assert report.items_per_second == 10.0
    assert report.peak_memory_gib == 1.0
    assert report.final_run_hours == pytest.approx(640 / 3600)
    assert report.memory_floor_gib is not None
    assert 0 < report.memory_floor_gib < 0.1
    assert report.memory_beyond_floor_gib == pytest.approx(1.0 - report.memory_floor_gib)


def test_scores_come_back_by_prompt(bench: TrialBench, proposal: Proposal) -> None:
    scores = bench.prompt_scores(bench.measure(proposal, HOUR))
    assert scores[:2] == pytest.approx([0 - 1.0 + 0.01, 1 - 1.0 - 0.01])


def test_a_trial_that_was_measured_is_found_by_digest(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    first = bench.measure(proposal, HOUR)
    again = bench.measure(proposal, HOUR)
    assert len(world.engine.ran) == 3
    assert again.model_copy(update={"seconds": first.seconds}) == first


def test_a_floor_above_the_limit_is_refused_without_a_job(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    tight = TrialBench(**{**vars(bench), "limits": Limits(memory_gib=0.001, hours=1.0)})
    report = tight.measure(proposal, HOUR)
    assert report.outcome == "over_memory"
    assert report.peak_memory_gib is None
    assert world.engine.ran == []


def test_a_peak_above_the_limit_is_refused_without_a_judge(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    world.engine.peak = 4.01
    report = bench.measure(proposal, HOUR)
    assert (report.outcome, report.peak_memory_gib) == ("over_memory", 4.01)
    assert report.reason == "Measured 4.01 GiB at the peak; 4 GiB are allowed."
    assert world.engine.kinds() == ["encode", "train"]


def test_a_complete_run_that_does_not_fit_is_refused(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    report = bench.measure(proposal, 639.0)
    assert report.outcome == "over_time"
    assert report.reason.startswith("The complete run would take 0.18 h")
    assert world.engine.kinds() == ["encode", "train"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (jobs.Diverged("diverged: job x: loss nan"), "diverged"),
        (jobs.OutOfMemory("out_of_memory: job x"), "out_of_memory"),
    ],
)
def test_a_trial_that_cannot_be_trained_is_a_report(
    world: Any, bench: TrialBench, proposal: Proposal, error: Exception, outcome: str
) -> None:
    world.engine.failure = {"train": error}
    report = bench.measure(proposal, HOUR)
    assert (report.outcome, report.reason) == (outcome, str(error))


def lora(proposal: Proposal) -> Proposal:
    adapter = {"tuning": Lora(rank=4, alpha=4)}
    trial, recipe = (one.model_copy(update=adapter) for one in (proposal.trial, proposal.recipe))
    return proposal.model_copy(update={"trial": trial, "recipe": recipe})


def test_trials_of_adapters_share_the_errors_of_the_base(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    sharing, first = replace(bench, shared_visits=320), lora(proposal)
    other = first.trial.model_copy(update={"objective": DiffusionDPO(beta=9.0)})
    report = sharing.measure(first, HOUR)
    sharing.measure(first.model_copy(update={"trial": other}), HOUR)
    assert world.engine.kinds() == ["encode", "reference_errors", "train", "evaluate", "train", "evaluate"]
    errors, *trainings = (r for r in world.engine.ran if r.kind in ("reference_errors", "train"))
    assert errors.spec["common"]["steps"] == 320
    assert [len(request.inputs) for request in trainings] == [3, 3]
    # The complete run computes the errors itself: 1/10 s for a pair's step and 1/40 s for its errors.
    assert report.items_per_second == pytest.approx(8.0)


def test_a_trial_that_computed_the_errors_itself_is_as_fast_as_measured(
    world: Any, bench: TrialBench, proposal: Proposal
) -> None:
    plain, first = bench, lora(proposal)
    assert plain.measure(first, HOUR).items_per_second == 10.0
    result = TrainResult.model_validate(world.engine(plain.training(first).request(plain._workspace(first))))
    errors = replace(bench, shared_visits=320).training(first).reference
    assert errors is not None
    path = world.engine.store.uri("models", result.spec_digest)
    lines = [{"step": 1, "unix_seconds": 0.0, "metrics": {"pairs_per_second": 10.0, "resident_memory_gib": 1.0}}]
    assert plain.figures(result, errors).items_per_second == pytest.approx(8.0)
    lines[0]["metrics"][REFERENCE_TIME] = 25.0  # type: ignore[index]
    (Path(path.removeprefix("file://")) / "metrics.jsonl").write_text(json.dumps(lines[0]))
    assert plain.figures(result, errors).items_per_second == 10.0


@pytest.mark.parametrize("kind", ["full", "mapo", "sharded", "single"])
def test_other_trials_share_nothing(world: Any, bench: TrialBench, proposal: Proposal, kind: str) -> None:
    """A full fine-tune keeps its reference, whose memory the trial measures."""
    sharing = replace(bench, shared_visits=0 if kind == "single" else 320)
    trial = proposal if kind == "full" else lora(proposal)
    if kind == "mapo":
        trial = trial.model_copy(update={"trial": trial.trial.model_copy(update={"objective": MaPO()})})
    if kind == "sharded":
        placed = bench.project.placement.train.model_copy(update={"sharding": "fsdp2"})
        placement = bench.project.placement.model_copy(update={"train": placed})
        sharing = replace(sharing, project=bench.project.model_copy(update={"placement": placement}))
    assert sharing.training(trial).reference is None


@pytest.mark.parametrize("error", [jobs.StorageFull("full"), jobs.JobCrashed("boom"), jobs.ConfigError("no base")])
def test_any_other_failure_stops_the_search(
    world: Any, bench: TrialBench, proposal: Proposal, error: Exception
) -> None:
    world.engine.failure = {"train": error}
    with pytest.raises(type(error)):
        bench.measure(proposal, HOUR)


def test_an_evaluation_with_problems_is_an_error(world: Any, bench: TrialBench, proposal: Proposal) -> None:
    world.engine.problems = ("3 images are blank.",)
    with pytest.raises(RuntimeError, match="3 images are blank"):
        bench.measure(proposal, HOUR)


def test_the_first_step_does_not_count_for_the_pace() -> None:
    lines = [{"pairs_per_second": pace, "gpu_memory_gib": 2.0 + pace} for pace in (1.0, 30.0, 10.0, 20.0)]
    figures = _read_figures(lines)
    assert (figures.items_per_second, figures.peak_memory_gib) == (20.0, 32.0)
    assert _read_figures(lines[:1]).items_per_second == 1.0


def test_metrics_without_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="no pace or no memory"):
        _read_figures([{"pairs_per_second": 1.0}])


def test_online_recipes_count_prompts(report: Any) -> None:
    figures = _read_figures([{"prompts_per_second": 0.5, "resident_memory_gib": 1.0}])
    recipe = load_recipe("prdp_shapes")
    timed: TrialReport = _with_figures(report(), figures, recipe)
    assert timed.final_run_hours == pytest.approx(recipe.steps * recipe.global_batch / 0.5 / 3600)
