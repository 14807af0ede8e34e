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
    """Recipes to start from, by name or path; none: those of `train`, with their overrides."""
    factors: dict[str, Range] = Field(default_factory=lambda: dict(DEFAULT_FACTORS))
    """Field of a recipe to the least and the greatest factor on its value, drawn on a log scale. A recipe without the
    field is left alone."""
    lora_ranks: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Other tunings to try: adapters of these ranks (alpha equal to the rank), 0 for a full fine-tune."""
    global_batches: tuple[PositiveInt, ...] = ()
    """Other global batches to try; steps follow, so that the number of pairs stays."""
    micro_batches: tuple[PositiveInt, ...] = ()
    """Other micro-batches to try: placement, which decides memory and pace alone."""
    trials: PositiveInt = 12
    """Number of trials."""
    trial_steps: PositiveInt = 20
    """Steps of a trial at the starting recipe's own global batch."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the proposals; the recipes keep their own seeds."""
    judge: str = ""
    """Scorer of the project that ranks the trials and may not vote on the winner; none: the first of online.rewards,
    else the first judge."""
    prompts: LocalPath = ""
    """Validation prompts, tab separated with the header `prompt<TAB>category`; none: prompts of the snapshot's test
    split, which are not trained on."""
    num_prompts: Annotated[int, Field(ge=2)] = 100
    """Most prompts taken from the test split."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1)
    """Images of each prompt."""

    @model_validator(mode="after")
    def _ranges_hold_the_start(self) -> Self:
        for field, (low, high) in self.factors.items():
            if not low <= 1 <= high:
                raise ValueError(f"search.factors.{field} is [{low:g}, {high:g}]; it must hold 1, the recipe as it is")
        return self
