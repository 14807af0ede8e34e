"""Value objects for model soups: the runs to average, the method, and the result. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.contracts.evaluation import Sampler, check_sampler
from alignment.contracts.judges import Judge
from alignment.contracts.training import FullFineTune, Recipe, TrainResult
from alignment.contracts.values import Record, Sha256, ValueObject, canonical_json


class SoupIngredient(Record):
    """A finished run and its recipe."""

    recipe: Recipe
    result: TrainResult


class Uniform(Record):
    """The average of all ingredients."""

    kind: Literal["uniform"] = "uniform"


class Greedy(Record):
    """Add ingredients, best first, while the judge's mean score rises by more than `minimum_gain`.

    The soup is selected by this judge, so the judge must not vote on it. For the same reason the prompts must not be
    those of the evaluation.
    """

    kind: Literal["greedy"] = "greedy"
    judge: Judge
    prompts_digest: Sha256
    """sha256 of the prompts file (tab separated, header `prompt<TAB>category`)."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler
    minimum_gain: Annotated[float, Field(ge=0)]
    """Minimum gain in the judge's units. Set it above the noise of the mean over these prompts and seeds."""


def recipe_family(recipe: Recipe) -> str:
    """Return the settings that recipes must share for their weights to be averaged: backbone, objective, tuned part.

    For adapters also the seed: the seed initialises them, and factors from unrelated seeds do not average (the mean of
    products is not the product of means). Steps, learning rates and betas may differ.
    """
    shared: dict[str, object] = {
        "backbone": recipe.backbone.model_dump(mode="json"),
        "objective": recipe.objective.name,
        "tuning": recipe.tuning.model_dump(mode="json"),
    }
    if not isinstance(recipe.tuning, FullFineTune):
        shared["seed"] = recipe.seed
    return canonical_json(shared)


class SoupSpec(ValueObject):
    """Candidates of one base and one recipe family, and the averaging method."""

    ingredients: Annotated[tuple[SoupIngredient, ...], Field(min_length=1)]
    method: Annotated[Uniform | Greedy, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _check_sampler(self) -> Self:
        if isinstance(self.method, Greedy):
            check_sampler(self.ingredients[0].recipe.backbone, self.method.sampler)
        return self


class SoupAttempt(Record):
    """One ingredient that a greedy soup tried to add."""

    weights_digest: Sha256
    score: float
    """Score of the soup with this ingredient."""
    kept: bool


class SoupResult(ValueObject):
    """Result of a finished run. The folder holds weights/ in the ingredients' layout and, for greedy, samples/."""

    uri: str
    spec_digest: Sha256
    kind: Literal["lora", "full"]
    weights_digest: Sha256
    """content_digest of the weights/ folder."""
    base_digest: Sha256
    ingredients: tuple[Sha256, ...]
    """Weights digests of the ingredients in the soup, in the order they were added."""
    own_scores: tuple[float, ...] = ()
    """Score of each ingredient of the spec on its own. Empty for a uniform soup, which uses no judge."""
    attempts: tuple[SoupAttempt, ...] = ()
    chosen_by: tuple[str, ...] = ()
    """`training_sources` of the judge that chose the ingredients; it may not vote on the soup. Empty if uniform."""
