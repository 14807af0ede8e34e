"""Value objects of repeated sampling: how much the best of N images gains, model by model. Torch-free."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from alignment.contracts.evaluation import ModelRef, ModelsSpec, Role, SampleSpec
from alignment.contracts.judges import Judge
from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject


class CoverageSpec(ModelsSpec):
    """Few prompts x many seeds of candidate, champion and base under one judge."""

    num_prompts: PositiveInt
    """Prompts taken evenly from the evaluation's file; all of them when it has fewer."""
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    """Images of a prompt; the curve ends at their number."""
    judge: Judge
    bar: Annotated[float, Field(gt=0, lt=1)]
    """Quantile of the base's own images of the prompt that an image must exceed to count as good."""

    @model_validator(mode="after")
    def _no_seed_twice(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds holds a seed twice; the same image would count as two. Name each once.")
        return self

    def sample_spec(self, model: ModelRef) -> SampleSpec:
        """The images that this needs of one model."""
        return super().sample_spec(model).model_copy(update={"num_prompts": self.num_prompts})


class CoveragePoint(Record):
    """What the best of `num_samples` images of a prompt is worth."""

    num_samples: PositiveInt
    coverage: Share
    """Chance, over prompts, that at least one of the images is good."""
    coverage_low: Share
    coverage_high: Share
    best_score: float
    """Expected score of the best of them, in the judge's units."""


class PowerLaw(Record):
    """coverage(k) = exp(-scale * k ** -exponent), fitted to the points strictly between 0 and 1."""

    scale: float
    exponent: float
    num_points: PositiveInt
    largest_error: float
    """Largest distance between fit and point, in coverage."""


class CoverageCurve(Record):
    """One model's curve. The base's own follows from the bar alone: it is what luck gives."""

    role: Role
    points: tuple[CoveragePoint, ...]
    power_law: PowerLaw | None
    """None where fewer than three points lie strictly between 0 and 1."""


class CoverageReport(ValueObject):
    """What repeated sampling measured. The folder holds coverage_scores.parquet and the spec.

    coverage_scores.parquet has one row per (role, prompt, seed): role, prompt_index, seed, score. Every number here can
    be computed from it again.
    """

    uri: str
    spec: CoverageSpec
    scores_digest: Sha256
    """sha256 of coverage_scores.parquet."""
    num_prompts: PositiveInt
    curves: tuple[CoverageCurve, ...]
