"""Value objects for evaluation: models, sampler, images to generate, and the report."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone, SchedulerName
from alignment.contracts.calibration import Calibration
from alignment.contracts.judges import Judge
from alignment.contracts.values import NumberFormat, PositiveInt, Record, Sha256, ValueObject

Role = Literal["candidate", "champion", "base"]


class ModelRef(Record):
    """Weights to sample from: the base itself, or an adapter or a full denoiser for it."""

    kind: Literal["base", "lora", "full"]
    weights_digest: Sha256
    """For the base this is the content_digest of the base's folder."""


class Sampler(Record):
    """Settings that evaluation images are generated with. They are part of the images' identity."""

    scheduler: SchedulerName = "ddim"
    """Scheduler of the diffusion steps; it must fit the backbone."""
    steps: PositiveInt = 50
    """Number of diffusion steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5
    """Classifier-free guidance; 1 is no guidance."""
    precision: NumberFormat = Field(default="fp32", exclude_if="fp32".__eq__)
    """Format that the text encoders and the denoiser compute in. Latents, their steps and the VAE stay in fp32."""


def check_sampler(backbone: Backbone, sampler: Sampler) -> None:
    """Check that the backbone samples with the sampler's scheduler; ValueError when it does not."""
    if sampler.scheduler != backbone.scheduler:
        raise ValueError(
            f"Sampler scheduler {sampler.scheduler!r} does not work with backbone {backbone.name!r}, which needs"
            f" {backbone.scheduler!r}. Set evaluation.sampler.scheduler to that."
        )


class DrawingSpec(ValueObject):
    """Settings for generating images for prompts x seeds."""

    base_digest: Sha256
    backbone: Backbone
    prompts_digest: Sha256
    """sha256 of the prompts file (tab separated, header `prompt<TAB>category`)."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler

    @model_validator(mode="after")
    def _check_sampler(self) -> Self:
        check_sampler(self.backbone, self.sampler)
        return self


class SampleSpec(DrawingSpec):
    """One model's images. Its digest names the cached folder, see `image_name`."""

    model: ModelRef
    num_prompts: PositiveInt | None = None
    """Number of prompts, evenly spaced in the file; None for all."""


def image_name(prompt_index: int, seed: int) -> str:
    """Return the name of an image's file in the folder of a SampleSpec."""
    return f"{prompt_index:05d}_{seed}.png"


class ModelsSpec(DrawingSpec):
    """Candidate, champion and base on the same prompts and seeds."""

    candidate: ModelRef
    champion: ModelRef
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of every interval."""

    def sample_spec(self, model: ModelRef) -> SampleSpec:
        """Return the spec of the images that this needs from one model."""
        drawing = {name: getattr(self, name) for name in DrawingSpec.model_fields if name != "schema_version"}
        return SampleSpec(model=model, **drawing)

    def models(self) -> dict[Role, ModelRef]:
        """Return the model of each role. Two roles may name the same weights, which are then sampled once."""
        base = ModelRef(kind="base", weights_digest=self.base_digest)
        return {"candidate": self.candidate, "champion": self.champion, "base": base}


class EvalSpec(ModelsSpec):
    """Candidate, champion and base, scored by the same judges."""

    schema_version: int = 3
    judges: Annotated[tuple[Judge, ...], Field(min_length=1)]
    guards: tuple[Judge, ...]
    snapshot_digest: Sha256
    """content_digest of the snapshot whose calibration split the judges are checked on."""
    tie_thresholds: dict[str, float] = Field(default_factory=dict)
    """Judge name to the largest per-prompt difference that counts as a tie; 0 for judges not listed."""


class Comparison(Record):
    """Candidate against another model with one scorer. The unit is the prompt: seeds are averaged first."""

    scorer: str
    against: Literal["champion", "base"]
    num_prompts: int
    """Number of independent prompts: a group of near-duplicates counts as one."""
    wins: int
    ties: int
    losses: int
    win_rate: float
    """(wins + ties / 2) / num_prompts."""
    win_rate_low: float
    win_rate_high: float
    mean_difference: float
    """Mean over prompts of candidate minus other, in the scorer's own units."""
    mean_difference_low: float
    mean_difference_high: float
    p_value: float
    """One-sided Wilcoxon signed-rank test of a positive difference; 1 when all differences are 0."""


class EvalReport(ValueObject):
    """Result of an evaluation. The folder holds scores.parquet, contact_sheet.png and the spec.

    scores.parquet has one row per (role, scorer, prompt, seed): role, scorer, scorer_digest, prompt_index, prompt,
    category, group (index of the group's first prompt), seed, score. Roles candidate_shuffled and champion_shuffled
    hold the first seed's images scored by the judges against other prompts. Calibrations can be recomputed from
    calibration_scores.parquet, everything else from scores.parquet.
    """

    uri: str
    spec: EvalSpec
    scores_digest: Sha256
    """sha256 of scores.parquet."""
    calibration_scores_digest: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """sha256 of calibration_scores.parquet. A report without it is from an earlier version and no longer evidence."""
    num_prompts: PositiveInt
    num_groups: PositiveInt | None = Field(default=None, exclude_if=lambda number: number is None)
    """Number of groups of near-duplicate prompts; None where no prompts are grouped."""
    comparisons: tuple[Comparison, ...]
    """One for each judge and guard, against the champion and against the base."""
    calibrations: tuple[Calibration, ...]
    problems: tuple[str, ...] = ()
    """Problems found while scoring (a score that is not finite, a black image...). Any entry makes the gate refuse."""

    @property
    def independent_prompts(self) -> int:
        """Effective number of prompts: a group of near-duplicates counts as one."""
        return self.num_prompts if self.num_groups is None else self.num_groups
