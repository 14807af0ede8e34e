"""Value objects of model soups: which runs are averaged, how, and what came of it. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.contracts.evaluation import Sampler, check_sampler
from alignment.contracts.judges import Judge
from alignment.contracts.training import FullFineTune, Recipe, TrainResult
from alignment.contracts.values import Record, Sha256, ValueObject, canonical_json


class SoupIngredient(Record):
    """A finished run and the recipe that it followed."""

    recipe: Recipe
    result: TrainResult


class Uniform(Record):
    """The average of all ingredients."""

    kind: Literal["uniform"] = "uniform"


class Greedy(Record):
    """Ingredients are added, best first, as long as the judge's mean score rises by more than `minimum_gain`.

    A judge that chose the ingredients has seen the soup: it must not vote on it. Neither may the prompts be those of
    the evaluation.
    """

    kind: Literal["greedy"] = "greedy"
    judge: Judge
    prompts_digest: Sha256
    """sha256 of the prompts file (tab separated, header `prompt<TAB>category`)."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler
    minimum_gain: Annotated[float, Field(ge=0)]
    """In the judge's units; set it above the noise of the mean over these prompts and seeds."""


def recipe_family(recipe: Recipe) -> str:
    """What recipes must share for their weights to lie in one valley: backbone, objective, what is trained.

    For adapters also the seed: they are drawn from it, and factors of unrelated draws do not average (the mean of
    products is not the product of means). Steps, rates and strengths may differ.
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
    """Candidates of one base and one recipe family, and how they are averaged."""

    ingredients: Annotated[tuple[SoupIngredient, ...], Field(min_length=1)]
    method: Annotated[Uniform | Greedy, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _sampler_fits(self) -> Self:
        if isinstance(self.method, Greedy):
            check_sampler(self.ingredients[0].recipe.backbone, self.method.sampler)
        return self


class SoupAttempt(Record):
    """One ingredient that a greedy soup tried to add."""

    weights_digest: Sha256
    score: float
    """Of the soup with it."""
    kept: bool


class SoupResult(ValueObject):
    """What a finished run leaves. The folder holds weights/ in the ingredients' layout and, for greedy, samples/."""

    uri: str
    spec_digest: Sha256
    kind: Literal["lora", "full"]
    weights_digest: Sha256
    """content_digest of the weights/ folder."""
    base_digest: Sha256
    ingredients: tuple[Sha256, ...]
    """Weights digests of those in the soup, in the order of addition."""
    own_scores: tuple[float, ...] = ()
    """Of each ingredient of the spec alone; empty for a uniform soup, which asks no judge."""
    attempts: tuple[SoupAttempt, ...] = ()
    chosen_by: tuple[str, ...] = ()
    """`lessons` of the judge that chose the ingredients: it has seen the soup. Empty for a uniform soup."""
