"""Value objects for training: recipe, specification and result."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.images import Images, buckets_of
from alignment.catalogues.objectives import Objective
from alignment.catalogues.optimisers import DivergenceGuard, Optimiser
from alignment.contracts.data import SQUARE
from alignment.contracts.jobs import Placement
from alignment.contracts.judges import Judge
from alignment.contracts.precision import FrozenWeights, Precision, precision_problem
from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject


class Lora(Record):
    """Low-rank adapters on the denoiser. The reference is the same weights with the adapter off."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveInt = 8
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


class FullFineTune(Record):
    """Every weight of the denoiser. The reference is a frozen copy."""

    kind: Literal["full"] = "full"


class Recipe(ValueObject):
    """The science of one run, as a recipe file states it, before it is bound to data."""

    name: str
    backbone: Backbone
    images: Images = Field(default=SQUARE, exclude_if=SQUARE.__eq__)
    """Crop of the images in the feature cache."""
    objective: Objective
    tuning: Annotated[Lora | FullFineTune, Field(discriminator="kind")]
    optimiser: Optimiser
    global_batch: PositiveInt
    """Pairs (for an online objective: prompts) per optimiser step, over all processes and accumulation steps."""
    steps: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    precision: Precision = "fp32"
    """Precision of the denoiser's products: float32, TF32 (float32 on devices without it), or autocast to bf16 or fp16.

    Trained weights, gradients, optimiser states and errors are float32 in every case.
    """
    frozen_weights: FrozenWeights = Field(default="fp32", exclude_if="fp32".__eq__)
    """Storage of weights that are not trained: a LoRA's base, the reference of a full fine-tune.

    `bf16` and `fp16` need the same precision; norms and biases stay float32. `int8` and `nf4` are for
    LoRA: linear layers of the repeated blocks are stored in 8 or 4.5 bits a weight, the other matrices in bf16.
    """
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    caption_dropout: Share = 0.0
    """Probability of training a pair without its caption, drawn once per pair."""
    flip_labels: bool = False
    """Train towards the rejected image. Use it only to check that the gate blocks a bad model."""
    divergence: DivergenceGuard = DivergenceGuard()
    selected_by: tuple[str, ...] = Field(default=(), exclude_if=().__eq__)
    """`training_sources` of the judge that chose this recipe among others. It may not judge a model of this recipe."""

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        buckets_of(self.images, self.backbone.resolution)
        if self.objective.online and self.images != SQUARE:
            raise ValueError(
                f"Objective {self.objective.name!r} generates its own square images; remove images from the recipe"
            )
        return self

    @model_validator(mode="after")
    def _check_precision(self) -> Self:
        problem = precision_problem(
            self.precision,
            self.frozen_weights,
            full=isinstance(self.tuning, FullFineTune),
            online=self.objective.online,
        )
        if problem:
            raise ValueError(problem)
        return self


def check_sharding(recipe: Recipe, placement: Placement) -> None:
    """Raise ValueError when a recipe cannot be trained with the sharding that a placement sets."""
    if placement.sharding == "none":
        return
    if recipe.objective.online:
        problem = f"objective {recipe.objective.name!r} draws images in each process at its own pace"
    elif recipe.optimiser.kind != "adamw":
        problem = f"optimiser {recipe.optimiser.kind!r} needs each weight whole"
    else:
        return
    raise ValueError(
        f"Recipe {recipe.name!r} cannot be trained with sharding = {placement.sharding!r}: its {problem}. Set"
        ' sharding = "none" in [placement.train], or use an offline objective with the optimiser adamw.'
    )


def check_adaptive(recipe: Recipe, placement: Placement) -> None:
    """Raise ValueError when a placement sets `auto` and the recipe or the sharding does not allow it."""
    if not placement.auto:
        return
    if recipe.objective.online:
        problem = f"objective {recipe.objective.name!r} draws images, whose number is in the recipe"
    elif placement.sharding != "none":
        problem = f"sharding = {placement.sharding!r} makes all processes run the same passes"
    else:
        return
    raise ValueError(
        f"Recipe {recipe.name!r} cannot be trained with auto = true: {problem}. Set auto = false and a micro_batch in"
        " [placement.train]; `plumbline plan` shows what fits."
    )


class OnlineData(Record):
    """Training data of an online objective: prompts to generate images for, and the reward that scores the images."""

    prompts_digest: Sha256
    """sha256 of the prompts file: UTF-8, one prompt per line."""
    reward: Judge


class TrainSpec(ValueObject):
    """A recipe bound to data and base weights. Equal digests give the same curve wherever the job runs."""

    recipe: Recipe
    base_digest: Sha256
    cache_digest: Sha256 | None = None
    """content_digest of the feature cache's folder; None for an online objective."""
    online: OnlineData | None = None
    """Prompts and reward of an online objective; None for the others."""

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if (self.online is not None, self.cache_digest is None) != (self.recipe.objective.online,) * 2:
            needed = "online and no cache_digest" if self.recipe.objective.online else "cache_digest and no online"
            raise ValueError(f"Objective {self.recipe.objective.name!r} needs {needed}")
        return self


class TrainResult(ValueObject):
    """Result of a finished run. The folder holds weights/, metrics.jsonl and samples/.

    weights/ is `pytorch_lora_weights.safetensors` (diffusers' LoRA layout) for LoRA, or a `unet/` or `transformer/`
    folder (by the backbone's denoiser) as `save_pretrained` writes it for full fine-tunes.
    """

    uri: str
    spec_digest: Sha256
    kind: Literal["lora", "full"]
    weights_digest: Sha256
    """content_digest of the weights/ folder."""
    base_digest: Sha256
    steps: PositiveInt
    num_pairs: PositiveInt
    """Pairs in the feature cache; for an online run, prompts in its file."""
    trained_on: tuple[str, ...] = ()
    """Training sources of an online run, its reward first. Empty when they are the snapshot's sources."""
    selected_by: tuple[str, ...] = ()
    """The recipe's `selected_by`."""
    final_metrics: dict[str, float]
    """Means over the last tenth of the steps."""
