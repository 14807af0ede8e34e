"""Value objects that a GPU job reads or writes. Torch-free, frozen, plain JSON.

They carry URIs and digests, never payloads. Two kinds of digest: `digest` of the object itself (sha256 of its canonical
JSON) and `content_digest` of a folder of files (sha256 over its sorted "path sha256" lines, see `folder_digest`).
"""

import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignment.backbones.catalogue import Backbone, SchedulerName
from alignment.data.buckets import Images, Square, buckets_of
from alignment.objectives.catalogue import Objective
from alignment.optimisers import DivergenceGuard, Optimiser
from alignment.rewards.catalogue import Reward

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Field(gt=0)]
Role = Literal["candidate", "champion", "base"]
SQUARE = Square()  # a default that is not written: a digest says nothing about what nobody asked for
Share = Annotated[float, Field(ge=0, le=1)]


def canonical_json(value: Any) -> str:
    """The text a digest is taken of: keys sorted, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Record(BaseModel):
    """Frozen, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ValueObject(Record):
    """A record whose identity is the sha256 of its canonical JSON."""

    schema_version: int = 1
    """Raised when a field changes meaning, or when the same fields now give other numbers."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON: keys sorted, no white space, UTF-8."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def folder_digest(sha256_by_path: Mapping[str, str]) -> str:
    """Identity of a folder: sha256 over "path sha256" lines, paths relative with forward slashes, sorted."""
    lines = "".join(f"{path} {sha256_by_path[path]}\n" for path in sorted(sha256_by_path))
    return hashlib.sha256(lines.encode()).hexdigest()


# --- data -----------------------------------------------------------------------------------------------------------


class DatasetSnapshot(ValueObject):
    """Accepted pairs, split by prompt group. The folder holds train.parquet, calibration.parquet and test.parquet.

    Columns: pair_id, prompt, caption_chosen, caption_rejected (both equal the prompt unless the source says more),
    image_chosen, image_rejected (encoded bytes), is_tie, annotator_id, source, licence, generator_chosen,
    generator_rejected (the models that drew them) and created_at, where the source says so.
    In a tie the order of the two images is the source's and means nothing; training skips ties, calibration keeps them.
    """

    uri: str
    content_digest: Sha256
    num_pairs: dict[Literal["train", "calibration", "test"], int]
    num_ties: int
    num_captioned: int | None = None
    """Training pairs, less ties, with an image whose caption is not just the prompt; None where nobody counted."""
    num_prompts: int
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    batch_digests: tuple[Sha256, ...]
    heldout_prompts_digest: Sha256
    labelled_by: tuple[str, ...] = ()
    """`Judge.lessons` of those whose verdicts stand in the place of people's in the training split."""

    @property
    def lessons(self) -> tuple[str, ...]:
        """What a model learns from these pairs; no judge that shares one of them may judge it."""
        return tuple(sorted({*self.sources, *self.labelled_by}))


class EncodeSpec(ValueObject):
    """Science of a feature cache: which pairs through which encoders."""

    snapshot_digest: Sha256
    """content_digest of the snapshot's folder."""
    base_digest: Sha256
    """content_digest of the base model's folder."""
    backbone: Backbone
    images: Images = Field(default=SQUARE, exclude_if=SQUARE.__eq__)
    shard_pairs: PositiveInt = 64
    """Pairs in one shard; a rank encodes whole shards, so the numbers do not depend on the number of ranks."""


class FeatureCache(ValueObject):
    """VAE latent means and standard deviations per image, text-encoder states once per distinct caption."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    num_pairs: PositiveInt
    num_captions: PositiveInt
    num_captioned: int | None = None
    """Pairs with an image whose caption is not just the prompt; None where nobody counted."""
    latent_shape: tuple[int, int, int]
    """C, H, W of one latent."""


# --- scorers --------------------------------------------------------------------------------------------------------


class Judge(Record):
    """A scorer with its weights and where its own labels came from: a judge, a guard, or a reward to train on."""

    name: str
    scorer: Reward
    weights_digest: Sha256
    """content_digest of its folder."""
    identity: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """sha256 over its weights files alone, whatever lies beside them; older specs have none, the folder's stands in."""
    trained_on: tuple[str, ...] = ()
    """Sources of the labels it learnt from, besides its kind's own; it may not judge a model trained on one of them."""
    keeps_split: bool = Field(default=False, exclude_if=operator.not_)
    """Whether it was trained here, so that it has not seen the calibration pairs of the sources that it learnt from."""

    @property
    def lessons(self) -> tuple[str, ...]:
        """What one learns by maximising its score: itself, under whatever name, and the sources of its labels."""
        return (self.name, f"scorer {self.identity or self.weights_digest}", *self.scorer.trained_on, *self.trained_on)


# --- training -------------------------------------------------------------------------------------------------------


class Lora(Record):
    """Low-rank adapters on the denoiser; the reference is the same weights with the adapter off."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveInt = 8
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


class FullFineTune(Record):
    """Every weight of the denoiser; the reference is a frozen copy."""

    kind: Literal["full"] = "full"


class Recipe(ValueObject):
    """The science of one run, as a recipe file states it, before it meets data."""

    name: str
    backbone: Backbone
    images: Images = Field(default=SQUARE, exclude_if=SQUARE.__eq__)
    """How the images of the feature cache are cut."""
    objective: Objective
    tuning: Annotated[Lora | FullFineTune, Field(discriminator="kind")]
    optimiser: Optimiser
    global_batch: PositiveInt
    """Pairs (of an online objective: prompts) per optimiser step over all processes and accumulation steps."""
    steps: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast dtype of the denoiser's forward pass; errors are squared in float32 either way."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    caption_dropout: Share = 0.0
    """Probability of training a pair without its caption, one draw a pair."""
    flip_labels: bool = False
    """Trains towards the rejected image. Only to check that a gate holds what it should."""
    divergence: DivergenceGuard = DivergenceGuard()
    selected_by: tuple[str, ...] = Field(default=(), exclude_if=().__eq__)
    """`lessons` of the judge that chose this recipe among others; it may not judge what the recipe trains."""

    @model_validator(mode="after")
    def _images_can_be_cut(self) -> Self:
        buckets_of(self.images, self.backbone.resolution)
        if self.objective.online and self.images != SQUARE:
            raise ValueError(f"Objective {self.objective.name!r} draws its own images, squares; leave images out")
        return self


class OnlineData(Record):
    """What an online objective trains on: prompts to draw images for, and the reward that scores them."""

    prompts_digest: Sha256
    """sha256 of the prompts file: UTF-8, one prompt a line."""
    reward: Judge


class TrainSpec(ValueObject):
    """A recipe bound to data and base weights. Same digest, same curve, wherever it runs."""

    recipe: Recipe
    base_digest: Sha256
    cache_digest: Sha256 | None = None
    """content_digest of the feature cache's folder; an online objective has none."""
    online: OnlineData | None = None
    """Prompts and reward of an online objective; the others have none."""

    @model_validator(mode="after")
    def _has_its_data(self) -> Self:
        if (self.online is not None, self.cache_digest is None) != (self.recipe.objective.online,) * 2:
            needed = "online and no cache_digest" if self.recipe.objective.online else "cache_digest and no online"
            raise ValueError(f"Objective {self.recipe.objective.name!r} takes {needed}")
        return self


class TrainResult(ValueObject):
    """What a finished run leaves. The folder holds weights/, metrics.jsonl and samples/.

    weights/ is `pytorch_lora_weights.safetensors` (diffusers' LoRA layout) for LoRA, or a `unet/` or `transformer/`
    folder, by the backbone's denoiser, as `save_pretrained` writes it for full fine-tunes.
    """

    uri: str
    spec_digest: Sha256
    kind: Literal["lora", "full"]
    weights_digest: Sha256
    """content_digest of the weights/ folder."""
    base_digest: Sha256
    steps: PositiveInt
    num_pairs: PositiveInt
    """Pairs of the feature cache; of an online run, the prompts of its file."""
    trained_on: tuple[str, ...] = ()
    """What an online run learnt from, its reward first; empty when that is the snapshot's sources."""
    selected_by: tuple[str, ...] = ()
    """The recipe's: what chose it among others."""
    final_metrics: dict[str, float]
    """Means over the last tenth of the steps."""


# --- evaluation -----------------------------------------------------------------------------------------------------


class ModelRef(Record):
    """Weights to sample from: the base itself, or an adapter or a denoiser on top of it."""

    kind: Literal["base", "lora", "full"]
    weights_digest: Sha256
    """For the base this is the base's own content_digest."""


class Sampler(Record):
    """How evaluation images are drawn; part of their identity."""

    scheduler: SchedulerName = "ddim"
    steps: PositiveInt = 50
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5


def check_sampler(backbone: Backbone, sampler: Sampler) -> None:
    """ValueError when the backbone's images are not drawn with the sampler's scheduler."""
    if sampler.scheduler != backbone.scheduler:
        raise ValueError(
            f"Sampler scheduler {sampler.scheduler!r} does not draw with backbone {backbone.name!r}, which takes"
            f" {backbone.scheduler!r}. Set evaluation.sampler.scheduler to that."
        )


class DrawingSpec(ValueObject):
    """How images are drawn for prompts x seeds."""

    base_digest: Sha256
    backbone: Backbone
    prompts_digest: Sha256
    """sha256 of the prompts file (tab separated, header `prompt<TAB>category`)."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sampler: Sampler

    @model_validator(mode="after")
    def _sampler_fits(self) -> Self:
        check_sampler(self.backbone, self.sampler)
        return self


class SampleSpec(DrawingSpec):
    """One model's images. Its digest names the cached folder `{prompt_index:05d}_{seed}.png`."""

    model: ModelRef
    num_prompts: PositiveInt | None = None
    """Only this many of the prompts, taken evenly from the file; None for all."""


class ModelsSpec(DrawingSpec):
    """Candidate, champion and base on the same prompts and seeds."""

    candidate: ModelRef
    champion: ModelRef
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of every interval."""

    def sample_spec(self, model: ModelRef) -> SampleSpec:
        """The images that this needs of one model."""
        drawing = {name: getattr(self, name) for name in DrawingSpec.model_fields if name != "schema_version"}
        return SampleSpec(model=model, **drawing)

    def models(self) -> dict[Role, ModelRef]:
        """The three roles; two may name the same weights, which are then sampled once."""
        base = ModelRef(kind="base", weights_digest=self.base_digest)
        return {"candidate": self.candidate, "champion": self.champion, "base": base}


class EvalSpec(ModelsSpec):
    """The three scored by the same judges."""

    schema_version: int = 3
    judges: Annotated[tuple[Judge, ...], Field(min_length=1)]
    guards: tuple[Judge, ...]
    snapshot_digest: Sha256
    """content_digest of the snapshot whose calibration split the judges are checked on."""
    tie_thresholds: dict[str, float] = {}
    """Judge name to the largest per-prompt difference that counts as a tie; 0 where not named."""


class Comparison(Record):
    """Candidate against another model under one scorer. The unit is the prompt: seeds are averaged first."""

    scorer: str
    against: Literal["champion", "base"]
    num_prompts: int
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


class Calibration(Record):
    """Agreement of a judge with held-out people; their ties are left out, a judge's tie counts as half right."""

    judge: str
    num_pairs: int
    """Comparisons with a majority: several people's labels of one comparison are one."""
    num_human_ties: int
    accuracy: float
    accuracy_low: float
    """Lower Wilson bound at the evaluation's confidence, pairs of one prompt being dependent."""
    accuracy_high: float


class EvalReport(ValueObject):
    """What an evaluation measured. The folder holds scores.parquet, contact_sheet.png and the spec.

    scores.parquet has one row per (role, scorer, prompt, seed): role, scorer, scorer_digest, prompt_index, prompt,
    category, seed, score. Roles candidate_shuffled and champion_shuffled hold the first seed's images scored by the
    judges against other prompts. Calibrations are recomputed from calibration_scores.parquet, all else from it.
    """

    uri: str
    spec: EvalSpec
    scores_digest: Sha256
    """sha256 of scores.parquet."""
    calibration_scores_digest: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """sha256 of calibration_scores.parquet; a report without one is of an earlier version, and no evidence any more."""
    num_prompts: PositiveInt
    comparisons: tuple[Comparison, ...]
    """Each judge and guard, against the champion and against the base."""
    calibrations: tuple[Calibration, ...]
    problems: tuple[str, ...] = ()
    """What went wrong while scoring (a score that is not finite, a black image...). Any entry makes the gate refuse."""


# --- a job ----------------------------------------------------------------------------------------------------------


class Placement(Record):
    """How a job is run. Nothing here changes the mathematics."""

    engine: str = "local"
    num_processes: PositiveInt = 1
    threads_per_process: PositiveInt = 1
    micro_batch: PositiveInt = 8
    """Most pairs (training) or images (sampling) one process holds at once; accumulation makes up the rest."""
    checkpoint_every_steps: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    sample_every_steps: PositiveInt = 100
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample grid, drawn at step 0, every `sample_every_steps` and at the end."""
    log_every_steps: PositiveInt = 1
    timeout_seconds: PositiveInt = 86_400
