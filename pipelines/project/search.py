"""The [search] table of a project file: recipes, factors and limits of a recipe search."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from alignment.contracts.values import PositiveInt, Record
from pipelines.project.paths import LocalPath, RecipePath

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


DEFAULT_FACTORS: Mapping[str, Range] = {"optimiser.learning_rate": (0.2, 5.0), "objective.beta": (0.25, 4.0)}


class SearchSection(Record):
    """Recipe search: its start, its changes and its measurements."""

    recipes: tuple[RecipePath, ...] = ()
    """Recipes to start from, by name or path; none: the recipes of `train`, with their overrides."""
    factors: dict[str, Range] = Field(default_factory=lambda: dict(DEFAULT_FACTORS))
    """Smallest and largest factor on a field of the recipe, by field. Factors are drawn on a log scale. Recipes without
    the field are not changed."""
    lora_ranks: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Other LoRA ranks to try, with alpha equal to the rank; 0 is a full fine-tune."""
    global_batches: tuple[PositiveInt, ...] = ()
    """Other global batches to try. The number of steps is adjusted so that the number of pairs stays the same."""
    micro_batches: tuple[PositiveInt, ...] = ()
    """Other micro-batches to try. They affect only memory and speed."""
    trials: PositiveInt = 12
    """Number of trials."""
    trial_steps: PositiveInt = 20
    """Steps of a trial at the global batch of the starting recipe."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the proposals; the recipes keep their seeds."""
    judge: str = ""
    """Scorer of the project that ranks the trials. It may not vote on the winner. None: the first of online.rewards,
    else the first judge."""
    prompts: LocalPath = ""
    """Validation prompts, tab-separated with the header `prompt<TAB>category`; none: prompts of the snapshot's test
    split, which are not used in training."""
    num_prompts: Annotated[int, Field(ge=2)] = 100
    """Largest number of prompts from the test split."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1)
    """Seeds; each draws one image of every prompt."""

    @model_validator(mode="after")
    def _ranges_hold_the_start(self) -> Self:
        for field, (low, high) in self.factors.items():
            if not low <= 1 <= high:
                raise ValueError(
                    f"search.factors.{field} is [{low:g}, {high:g}]; it must contain 1, the unchanged value"
                )
        return self
