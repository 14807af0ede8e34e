"""Value objects for repeated sampling: gain of the best of N images, for each model. Torch-free."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from alignment.contracts.evaluation import ModelRef, ModelsSpec, Role, SampleSpec
from alignment.contracts.judges import Judge
from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject


class CoverageSpec(ModelsSpec):
    """Candidate, champion and base on few prompts x many seeds, scored by one judge."""

    num_prompts: PositiveInt
    """Prompts, evenly spaced in the evaluation's file; all of them when it has fewer."""
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    """Seeds of a prompt's images, one image per seed. The curve ends at their number."""
    judge: Judge
    bar: Annotated[float, Field(gt=0, lt=1)]
    """Quantile of the base's scores for the same prompt; an image above it counts as good."""

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds contains a seed twice, so one image would count as two. List each seed once.")
        return self

    def sample_spec(self, model: ModelRef) -> SampleSpec:
        """Return the spec of the images that this needs from one model."""
        return super().sample_spec(model).model_copy(update={"num_prompts": self.num_prompts})


class CoveragePoint(Record):
    """Value of the best of `num_samples` images of a prompt."""

    num_samples: PositiveInt
    coverage: Share
    """Probability, averaged over prompts, that at least one of the images is good."""
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
    """Largest absolute difference between fit and points, in units of coverage."""


class CoverageCurve(Record):
    """One model's curve. The base's curve follows from the bar alone: it is the result of chance."""

    role: Role
    points: tuple[CoveragePoint, ...]
    power_law: PowerLaw | None
    """None where fewer than three points lie strictly between 0 and 1."""


class CoverageReport(ValueObject):
    """Result of repeated sampling. The folder holds coverage_scores.parquet and the spec.

    coverage_scores.parquet has one row per (role, prompt, seed): role, prompt_index, seed, score. Every number here can
    be recomputed from it.
    """

    uri: str
    spec: CoverageSpec
    scores_digest: Sha256
    """sha256 of coverage_scores.parquet."""
    num_prompts: PositiveInt
    curves: tuple[CoverageCurve, ...]
