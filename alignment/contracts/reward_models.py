"""Value objects of reward-model training: preference heads, how they are trained, what was measured. Torch-free."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from alignment.contracts.values import PositiveInt, Record, Sha256, Share, ValueObject

PositiveFloat = Annotated[float, Field(gt=0)]
Comparison = Literal["distance", "unit_distance", "angle"]
"""How near an item is to a user's point: minus the Euclidean distance (not squared), the same between unit vectors, or
the cosine."""
Link = Literal["hinge", "cross_entropy"]
"""From margin to loss: max(0, 1 - margin), or -log sigmoid(margin) with a learnt scale on the comparison."""


class Projector(Record):
    """A small network from embeddings to the preference space: the authors' `mlp2-relu-dropout5-residual`."""

    num_hidden_layers: PositiveInt = 2
    activation: Literal["relu", "gelu"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability, before each activation."""
    residual: bool = True
    """Adds the input to the output; the two must be equally wide."""


class Bound(Record):
    """Keeps users' points near the origin: weight * sum over the batch of max(0, norm - upper)."""

    upper: PositiveFloat = 4.0
    weight: PositiveFloat = 1.0


class PalA(Record):
    """PAL with fixed ideal points: a user's point is a mixture of prototypes, whatever the prompt."""

    kind: Literal["pal_a"] = "pal_a"
    num_prototypes: PositiveInt = 2
    ideal_point: Literal["f(Pw)", "f(P)w", "Pw"] = "f(Pw)"
    """Whether the projector f, which items pass through too, is applied after mixing, before it, or not at all."""
    comparison: Comparison = "distance"
    link: Link = "hinge"
    projector: Projector = Projector()
    width: PositiveInt | None = None
    """Of the preference space; as wide as the image embeddings where none is given."""
    temperature: PositiveFloat = 1.0
    """Divides a user's logits before the softmax."""
    bound: Bound | None = None
    """The authors' text code computes it and does not add it."""


class PalB(Record):
    """PAL with points that follow the prompt: a mixture of K projections of the prompt's embedding."""

    kind: Literal["pal_b"] = "pal_b"
    num_prototypes: PositiveInt = 2
    comparison: Comparison = "angle"
    link: Link = "cross_entropy"
    projector: Projector = Projector()
    width: PositiveInt | None = None
    """Of the preference space; as wide as the image embeddings where none is given."""
    temperature: PositiveFloat = 1.0
    """Divides a user's logits before the softmax."""
    bound: Bound | None = Bound()
    """The authors' image code adds it."""


class BradleyTerry(Record):
    """One taste for everybody, in the PickScore manner: PAL-B with one prototype, whose mixture is 1 for any user."""

    num_prototypes: ClassVar[int] = 1
    comparison: ClassVar[Comparison] = "angle"
    link: ClassVar[Link] = "cross_entropy"
    temperature: ClassVar[float] = 1.0
    bound: ClassVar[Bound | None] = None

    kind: Literal["bradley_terry"] = "bradley_terry"
    projector: Projector = Projector()
    width: PositiveInt | None = None
    """Of the preference space; as wide as the image embeddings where none is given."""


Head = Annotated[PalA | PalB | BradleyTerry, Field(discriminator="kind")]


class HeadOptimiser(Record):
    """AdamW with a rate for each part; the authors' values for images."""

    projector_learning_rate: PositiveFloat = 1e-4
    projector_weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Only the projectors decay."""
    user_learning_rate: PositiveFloat = 5e-3
    """Of users' logits and of PAL-A's prototypes."""
    scale_learning_rate: PositiveFloat = 0.1
    """Of the log of the scale."""


class FewShot(Record):
    """Fitting the mixture of users who were not trained on; everything else is frozen."""

    learning_rate: PositiveFloat = 0.1
    """AdamW moves a logit by about this much a step, so rate times steps bounds the distance from the start: 4 by
    default. From an even start two logits can then be 8 apart, a weight above 0.999 on one of two prototypes. The
    authors' rate 5e-3 over 20 steps gives at most 0.55 and leaves a new user unplaced (docs/log.md, 2026-11-28)."""
    epochs: PositiveInt = 40
    batch: PositiveInt = 4096
    """Comparisons in one step, over all new users."""
    start: Literal["even", "normal"] = "even"
    """Logits before the first step: all 0, or standard normal as the authors draw them. A user with few labels keeps
    part of a random start, so even is the default."""


class RewardRecipe(ValueObject):
    """The science of one reward model, before it meets data."""

    name: str
    head: Head
    optimiser: HeadOptimiser = HeadOptimiser()
    global_batch: PositiveInt
    """Comparisons per step. The bound term is a sum over these, so its weight is only comparable at one batch size."""
    steps: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    validate_every_steps: PositiveInt = 50
    """How often the validation loss is taken; the weights with the lowest are kept."""
    validation_share: Share = 0.1
    """Share of the training prompts that is held out for that choice; 0 keeps the last step's weights."""
    unseen_users_share: Share = 0.2
    """Share of the users whose training comparisons are set aside, for the report on unseen users."""
    few_shot: FewShot = FewShot()
    labels_per_user: tuple[PositiveInt, ...] = (5, 20, 100)
    """Labels of an unseen user that the report fits a mixture to."""


class HeadFile(ValueObject):
    """head.json beside head.safetensors: what it takes to rebuild a head."""

    head: Head
    image_width: PositiveInt
    text_width: PositiveInt
    users: tuple[str, ...] = ()
    """Annotators in the order of the rows of users' logits; none in a judge."""
    mixture: tuple[float, ...] = ()
    """The prototype weights a judge scores with; none in a head that knows its users."""

    @model_validator(mode="after")
    def _mixture_fits(self) -> "HeadFile":
        if self.mixture:
            check_mixture(self.mixture, self.head.num_prototypes)
        return self


def check_mixture(mixture: tuple[float, ...], num_prototypes: int) -> None:
    """ValueError unless these are prototype weights: one each, none negative, 1 in all."""
    if len(mixture) != num_prototypes or min(mixture) < 0 or abs(sum(mixture) - 1) > 1e-4:
        raise ValueError(
            f"The mixture {mixture} must be {num_prototypes} weights of 0 or more that add up to 1, one per prototype."
        )


class RewardTrainSpec(ValueObject):
    """A reward recipe bound to comparisons and to the encoder that embeds them."""

    recipe: RewardRecipe
    snapshot_digest: Sha256
    """content_digest of the snapshot's folder."""
    embedder_digest: Sha256
    """content_digest of the CLIP's folder; it stays frozen and becomes a part of the judge."""
    mixture: tuple[float, ...] = ()
    """Prototype weights of the judge; empty takes the mean over the users that were trained on."""

    @model_validator(mode="after")
    def _mixture_fits(self) -> "RewardTrainSpec":
        if self.mixture:
            check_mixture(self.mixture, self.recipe.head.num_prototypes)
        return self


class RewardAccuracy(Record):
    """How often a head ranks held-out comparisons as their users did; equal scores count as half right."""

    users: Literal["seen", "unseen"]
    labels_per_user: int
    """Labels that an unseen user's mixture was fitted to; 0 for seen users."""
    num_users: int
    num_pairs: int
    accuracy: float
    baseline_accuracy: float
    """Of the single-preference head, trained on the same comparisons and features."""


class RewardTrainResult(ValueObject):
    """What a finished run leaves. The folder holds judge/, head/ and metrics.jsonl."""

    uri: str
    spec_digest: Sha256
    judge_digest: Sha256
    """content_digest of judge/, which the rewards catalogue loads as kind `pal`."""
    head_digest: Sha256
    """content_digest of head/, with the users' logits."""
    steps: PositiveInt
    best_step: PositiveInt
    num_pairs: PositiveInt
    num_users: PositiveInt
    mixture: tuple[float, ...]
    final_metrics: dict[str, float]
    """Of the step whose weights were kept; validation_loss is that of held-out prompts."""
    accuracies: tuple[RewardAccuracy, ...]
