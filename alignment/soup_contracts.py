"""Value objects of model soups: which runs are averaged, how, and what came of it. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from alignment.contracts import Judge, Recipe, Record, Sampler, Sha256, TrainResult, ValueObject


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


class SoupSpec(ValueObject):
    """Candidates of one base and one recipe family, and how they are averaged."""

    ingredients: Annotated[tuple[SoupIngredient, ...], Field(min_length=1)]
    method: Annotated[Uniform | Greedy, Field(discriminator="kind")]


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
