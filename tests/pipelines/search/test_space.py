"""Proposals: the recipe that each choice makes, and fields that cannot be searched."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from alignment.config import load_recipe
from alignment.contracts.jobs import Placement
from alignment.contracts.training import FullFineTune, Lora
from pipelines.project.search import SearchSection
from pipelines.search.space import Space, Start, _field_value


class Choices:
    """Returns the given choices, and otherwise the middle: factor 1, the first choice."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given, self.asked = given, []

    asked: list[str]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        assert log
        self.asked.append(name)
        value = float(self.given.get(name, 1.0))
        assert low <= value <= high
        return value

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        self.asked.append(name)
        value = self.given.get(name, choices[0])
        assert value in choices
        return value


def space(*recipes: str, **section: Any) -> Space:
    names = recipes or ("diffusion_dpo_shapes",)
    return Space(
        section=SearchSection(**section),
        starts={name: Start(recipe=name) for name in names},
        placement=Placement(micro_batch=16, num_processes=2, sample_prompts=("a prompt",)),
    )


def test_nothing_changed_is_the_starting_recipe_over_fewer_steps() -> None:
    proposal = space(trial_steps=20).propose(Choices({}))
    own = load_recipe("diffusion_dpo_shapes")
    assert proposal.recipe == own
    assert proposal.changes == ()
    assert (proposal.trial.steps, proposal.trial.optimiser.warmup_steps) == (20, 5)
    assert own.optimiser.warmup_steps == 10
    unchanged = {"steps", "optimiser", "name"}
    assert proposal.trial.model_dump(exclude=unchanged) == own.model_dump(exclude=unchanged)
    assert proposal.placement.sample_prompts == ()


def test_factors_scale_the_recipes_values() -> None:
    given = {"factor of optimiser.learning_rate": 2.5, "factor of objective.beta": 0.5}
    proposal = space().propose(Choices(given))
    assert proposal.recipe.optimiser.learning_rate == 2.5e-5
    assert proposal.recipe.objective.beta == 1000  # type: ignore[union-attr]
    assert proposal.changes == ("optimiser.learning_rate=2.5e-05", "objective.beta=1000.0")


def test_a_recipe_without_the_field_is_unchanged_and_needs_no_choice() -> None:
    choices = Choices({})
    proposal = space("sft_shapes").propose(choices)
    assert "factor of objective.beta" not in choices.asked
    assert proposal.recipe == load_recipe("sft_shapes")


def test_another_batch_keeps_the_number_of_pairs_in_run_and_trial() -> None:
    proposal = space(global_batches=(8,), trial_steps=20).propose(Choices({"global_batch": "8"}))
    assert (proposal.recipe.global_batch, proposal.recipe.steps, proposal.trial.steps) == (8, 800, 80)


def test_a_trial_is_never_longer_than_the_run() -> None:
    assert space(trial_steps=1000).propose(Choices({})).trial.steps == 200


@pytest.mark.parametrize(
    ("recipe", "choice", "tuning"),
    [
        ("diffusion_dpo_shapes", "4", Lora(rank=4, alpha=4)),
        ("diffusion_dpo_shapes", "0", FullFineTune()),
        (
            "diffusion_dpo_lora_shapes",
            "4",
            load_recipe("diffusion_dpo_lora_shapes").tuning.model_copy(update={"rank": 4, "alpha": 4}),
        ),
        ("diffusion_dpo_lora_shapes", "0", FullFineTune()),
        ("diffusion_dpo_lora_shapes", "as it is", load_recipe("diffusion_dpo_lora_shapes").tuning),
    ],
)
def test_tunings(recipe: str, choice: str, tuning: Any) -> None:
    assert space(recipe, lora_ranks=(4, 0)).propose(Choices({"tuning": choice})).recipe.tuning == tuning


def test_a_trial_of_another_placement_is_another_job() -> None:
    """Its result would otherwise be found by its science, with the figures of the first placement."""
    searched = space(micro_batches=(4,))
    own, other = (searched.propose(Choices({"micro_batch": choice})) for choice in ("as it is", "4"))
    assert (own.placement.micro_batch, other.placement.micro_batch) == (16, 4)
    assert own.recipe == other.recipe
    assert own.trial.digest != other.trial.digest
    again = searched.propose(Choices({"micro_batch": "4"}))
    assert again.trial.digest == other.trial.digest


def test_the_changes_make_the_recipe_again() -> None:
    given = {"factor of optimiser.learning_rate": 1.23456, "global_batch": "64", "tuning": "4"}
    searched = space(global_batches=(64,), lora_ranks=(4,))
    proposal = searched.propose(Choices(given))
    assert searched.starts[proposal.start].load(proposal.changes) == proposal.recipe


def test_the_starting_choices_lead_to_the_starting_recipes() -> None:
    searched = space("diffusion_dpo_shapes", "mapo_shapes", global_batches=(8,), micro_batches=(4,), lora_ranks=(2,))
    found = [searched.propose(Choices(choices)).recipe for choices in searched.unchanged()]
    assert found == [load_recipe("diffusion_dpo_shapes"), load_recipe("mapo_shapes")]


def test_an_unknown_factor_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown field of search.factors 'optimiser.learning_rte'. Did you mean"):
        space(factors={"optimiser.learning_rte": (0.5, 2.0)}).check()


def test_default_factors_may_be_absent() -> None:
    space("sft_shapes").check()


def test_counts_are_no_factors() -> None:
    assert _field_value(load_recipe("diffusion_dpo_shapes"), "steps") is None
    with pytest.raises(ValueError, match=r"Unknown field of search.factors 'steps'"):
        space(factors={"steps": (0.5, 2.0)}).check()


def test_a_value_of_zero_does_not_scale() -> None:
    with pytest.raises(ValueError, match=r"search.factors.caption_dropout: a recipe has 0"):
        space(factors={"caption_dropout": (0.5, 2.0)}).check()


def test_a_range_must_contain_the_unchanged_recipe() -> None:
    with pytest.raises(ValidationError, match="it must contain 1"):
        SearchSection(factors={"objective.beta": (2.0, 4.0)})


def test_a_change_that_the_recipe_refuses_is_refused() -> None:
    searched = space("mapo_paper_shapes", factors={"objective.beta": (0.01, 2.0)})
    with pytest.raises(ValueError, match=r"objective.*beta: Input should be greater than or equal to 1"):
        searched.propose(Choices({"factor of objective.beta": 0.01}))


@pytest.mark.parametrize("batch", [1, 3, 7, 24, 100])
def test_no_trial_sees_more_visits_than_the_most(batch: int) -> None:
    own = space("diffusion_dpo_shapes", "mapo_shapes", trial_steps=5, global_batches=(batch,))
    for start in own.starts:
        for choice in ("as it is", str(batch)):
            trial = own.propose(Choices({"recipe": start, "global_batch": choice})).trial
            assert trial.steps * trial.global_batch <= own.most_visits()
