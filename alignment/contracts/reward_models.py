"""Value objects for reward-model training: preference heads, training settings, results. Torch-free."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject

PositiveFloat = Annotated[float, Field(gt=0)]
Comparison = Literal["distance", "unit_distance", "angle"]
"""Measure of nearness between an item and a user's point: minus the Euclidean distance (not squared), the same between
unit vectors, or the cosine."""
Link = Literal["hinge", "logistic", "cross_entropy"]
"""Loss of a margin: max(0, 1 - margin); -log sigmoid(margin); or the same with a learnt scale on the comparison."""


class Projector(Record):
    """A small network from embeddings to the preference space: the authors' `mlp2-relu-dropout5-residual`."""

    num_hidden_layers: Annotated[int, Field(ge=0)] = 2
    """Number of hidden layers; 0 leaves one linear layer."""
    activation: Literal["relu", "gelu", "linear"] = "relu"
    """Activation of the hidden layers; `linear` means none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout probability, applied before each activation."""
    residual: bool = True
    """Add the input to the output. The two must have the same width."""
    bias: bool = True
    """Give every linear layer a bias."""


class Bound(Record):
    """Penalty that keeps users' points near the origin: weight * sum over the batch of max(0, norm - upper)."""

    upper: PositiveFloat = 4.0
    """Norm up to which a point costs nothing, in units of the preference space."""
    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""


class PalA(Record):
    """PAL with fixed ideal points: a user's point is a mixture of prototypes, independent of the prompt."""

    kind: Literal["pal_a"] = "pal_a"
    num_prototypes: PositiveInt = 2
    """Number of prototypes."""
    ideal_point: Literal["f(Pw)", "f(P)w", "Pw"] = "f(Pw)"
    """Place of the projector f, which also projects the items: after mixing, before mixing, or not used for points."""
    comparison: Comparison = "distance"
    """Measure between an item and a user's point."""
    link: Link = "hinge"
    """Loss of a comparison."""
    projector: Projector = Projector()
    """Network that items pass through."""
    width: PositiveInt | None = None
    """Width of the preference space; None means the width of the image embeddings."""
    temperature: PositiveFloat = 1.0
    """Divisor of a user's logits before the softmax."""
    bound: Bound | None = None
    """The authors' text code computes this penalty but does not add it."""


class PalB(Record):
    """PAL with points that depend on the prompt: a mixture of K projections of the prompt's embedding."""

    kind: Literal["pal_b"] = "pal_b"
    num_prototypes: PositiveInt = 2
    """Number of prototypes."""
    comparison: Comparison = "angle"
    """Measure between an item and a user's point."""
    link: Link = "cross_entropy"
    """Loss of a comparison."""
    projector: Projector = Projector()
    """Network that items pass through."""
    width: PositiveInt | None = None
    """Width of the preference space; None means the width of the image embeddings."""
    temperature: PositiveFloat = 1.0
    """Divisor of a user's logits before the softmax."""
    bound: Bound | None = Bound()
    """The authors' image code adds this penalty."""


class BradleyTerry(Record):
    """One preference for all users, as in PickScore: PAL-B with one prototype, whose weight is 1 for any user."""

    num_prototypes: ClassVar[int] = 1
    comparison: ClassVar[Comparison] = "angle"
    link: ClassVar[Link] = "cross_entropy"
    temperature: ClassVar[float] = 1.0
    bound: ClassVar[Bound | None] = None

    kind: Literal["bradley_terry"] = "bradley_terry"
    projector: Projector = Projector()
    """Network that items pass through."""
    width: PositiveInt | None = None
    """Width of the preference space; None means the width of the image embeddings."""


Head = Annotated[PalA | PalB | BradleyTerry, Field(discriminator="kind")]


class HeadOptimiser(Record):
    """AdamW with a separate learning rate for each part. Defaults are the authors' values for images."""

    projector_learning_rate: PositiveFloat = 1e-4
    """Learning rate of the projectors."""
    projector_weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Weight decay, applied to the projectors only."""
    user_learning_rate: PositiveFloat = 5e-3
    """Learning rate of users' logits and of PAL-A's prototypes."""
    scale_learning_rate: PositiveFloat = 0.1
    """Learning rate of the log of the scale."""


class FewShot(Record):
    """Settings for fitting the mixtures of users who were not trained on. Everything else is frozen."""

    learning_rate: PositiveFloat = 0.1
    """AdamW moves a logit by about this much per step, so rate times steps bounds the distance from the start: 4 by
    default. From an even start two logits can then differ by 8, a weight above 0.999 on one of two prototypes. The
    authors' rate 5e-3 over 20 steps reaches at most 0.55, too little to place a new user (docs/log.md, 2026-11-28)."""
    epochs: PositiveInt = 40
    """Passes over the new users' comparisons."""
    batch: PositiveInt = 4096
    """Comparisons per step, over all new users."""
    start: Literal["even", "normal"] = "even"
    """Logits before the first step: all 0, or standard normal as in the authors' code. A user with few labels keeps
    part of a random start, so even is the default."""


class RewardRecipe(ValueObject):
    """The science of one reward model, before it is bound to data."""

    name: str
    """Name of the recipe; in a project file that of the reward."""
    head: Head
    """Form of the reward model."""
    optimiser: HeadOptimiser = HeadOptimiser()
    """Learning rates."""
    global_batch: PositiveInt
    """Comparisons per step. The bound is a sum over these, so its weight is only comparable at equal batch sizes."""
    steps: PositiveInt
    """Number of optimiser steps."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of initial weights and batches."""
    validate_every_steps: PositiveInt = 50
    """Steps between two validations. The weights with the lowest validation loss are kept."""
    validation_share: Share = 0.1
    """Share of the training prompts held out for validation; 0 keeps the last step's weights."""
    unseen_users_share: Share = 0.2
    """Share of the users whose training comparisons are held out, for the report on unseen users."""
    few_shot: FewShot = FewShot()
    """Fit of users who were not trained on."""
    labels_per_user: tuple[PositiveInt, ...] = (5, 20, 100)
    """Numbers of labels per unseen user for which the report fits a mixture."""


class HeadFile(ValueObject):
    """head.json beside head.safetensors: the settings needed to rebuild a head."""

    head: Head
    image_width: PositiveInt
    text_width: PositiveInt
    users: tuple[str, ...] = ()
    """Annotators, in the order of the rows of users' logits; empty in a judge."""
    mixture: tuple[float, ...] = ()
    """Prototype weights that a judge scores with; empty in a head that holds users."""

    @model_validator(mode="after")
    def _mixture_fits(self) -> "HeadFile":
        if self.mixture:
            check_mixture(self.mixture, self.head.num_prototypes)
        return self


def check_mixture(mixture: tuple[float, ...], num_prototypes: int) -> None:
    """Check prototype weights. ValueError unless there is one per prototype, none is negative and they add up to 1."""
    if len(mixture) != num_prototypes or min(mixture) < 0 or abs(sum(mixture) - 1) > 1e-4:
        raise ValueError(
            f"The mixture {mixture} must be {num_prototypes} weights of at least 0 that add up to 1, one per prototype."
        )


class RewardTrainSpec(ValueObject):
    """A reward recipe bound to comparisons and to the encoder that embeds them."""

    recipe: RewardRecipe
    snapshot_digest: Sha256
    """content_digest of the snapshot's folder."""
    embedder_digest: Sha256
    """content_digest of the CLIP's folder. The CLIP stays frozen and becomes part of the judge."""
    mixture: tuple[float, ...] = ()
    """Prototype weights of the judge; if empty, the mean over the users that were trained on."""

    @model_validator(mode="after")
    def _mixture_fits(self) -> "RewardTrainSpec":
        if self.mixture:
            check_mixture(self.mixture, self.recipe.head.num_prototypes)
        return self


class RewardAccuracy(Record):
    """Share of held-out comparisons that a head ranks as their users did. Equal scores count as half right."""

    users: Literal["seen", "unseen"]
    labels_per_user: int
    """Number of labels that an unseen user's mixture was fitted to; 0 for seen users."""
    num_users: int
    num_pairs: int
    accuracy: float
    baseline_accuracy: float
    """Accuracy of the single-preference head, trained on the same comparisons and features."""


class RewardTrainResult(ValueObject):
    """Result of a finished run. The folder holds judge/, head/ and metrics.jsonl."""

    uri: str
    spec_digest: Sha256
    judge_digest: Sha256
    """content_digest of judge/, a judge of kind `pal` in the rewards catalogue."""
    head_digest: Sha256
    """content_digest of head/, which holds the users' logits."""
    steps: PositiveInt
    best_step: PositiveInt
    num_pairs: PositiveInt
    num_users: PositiveInt
    mixture: tuple[float, ...]
    final_metrics: dict[str, float]
    """Metrics of the step whose weights were kept. validation_loss is measured on held-out prompts."""
    accuracies: tuple[RewardAccuracy, ...]
