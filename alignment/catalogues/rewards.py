"""The scorers of (image, prompt): one frozen params class for each."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from alignment.catalogues.record import Record


class RewardParams(Record):
    """Settings of every scorer. `implementation` is imported only where torch is installed."""

    implementation: ClassVar[str]
    trained_on: ClassVar[tuple[str, ...]] = ()
    """Data sets whose labels the published weights learnt from, by the names that a project may give its sources."""
    encoder_family: ClassVar[str] = ""
    """Pre-trained encoder of the published weights; empty for local weights."""
    components: ClassVar[tuple[str, ...]] = ("",)
    """Sub-folders of the judge's folder with config.json and safetensors; "" is the folder itself."""
    files: ClassVar[tuple[str, ...]] = ()
    """Further files of the judge's folder."""
    has_weights: ClassVar[bool] = True
    """False if there is no folder; the weights digest is then that of an empty folder."""
    per_prompt: ClassVar[bool] = False
    """True if it scores one model's images of a prompt together. It then needs two seeds and can only be a guard."""


class ClipPreference(RewardParams):
    """A preference-tuned CLIP in the PickScore convention: exp(logit_scale) * cos(text, image)."""

    implementation: ClassVar[str] = "alignment.rewards.clip_preference:ClipPreferenceScorer"

    kind: Literal["clip_preference"] = "clip_preference"


class PickScore(RewardParams):
    """PickScore v1: a CLIP ViT-H/14 tuned on Pick-a-Pic v1, as logits: exp(logit_scale) * cos(text, image), about 20.

    Pick-a-Pic v2 contains v1, so this judge shares training labels with a model trained on either.
    """

    implementation: ClassVar[str] = "alignment.rewards.pickscore:PickScoreScorer"
    encoder_family: ClassVar[str] = "clip_vit_h_14"
    trained_on: ClassVar[tuple[str, ...]] = ("pick_a_pic", "pick_a_pic_v1", "pick_a_pic_v2")

    kind: Literal["pickscore"] = "pickscore"


class HpsV2(RewardParams):
    """HPSv2 or 2.1: cos(text, image) of a CLIP ViT-H/14 tuned on HPD v2, about 0.27 (times 100 on the leaderboard)."""

    implementation: ClassVar[str] = "alignment.rewards.hpsv2:HpsV2Scorer"
    encoder_family: ClassVar[str] = "clip_vit_h_14"
    trained_on: ClassVar[tuple[str, ...]] = ("hpd_v2", "hpdv2")

    kind: Literal["hpsv2"] = "hpsv2"
    version: Literal["2.0", "2.1"]
    """Version of the published weights in the folder. Scales differ widely, so the version is part of the digest."""
    antialias: bool = True
    """Antialias when shrinking, as torchvision does from 0.17 on. False gives the scores of older versions."""


class HpsV3(RewardParams):
    """HPSv3: the first of two numbers that Qwen2-VL-7B outputs after reading a rubric; differences are log-odds.

    Its training set HPD v3 contains pairs of earlier data sets, so `trained_on` lists those as well.
    """

    implementation: ClassVar[str] = "alignment.rewards.hpsv3:HpsV3Scorer"
    encoder_family: ClassVar[str] = "qwen2_vl_7b"
    trained_on: ClassVar[tuple[str, ...]] = (
        *("hpd_v3", "hpdv3", "hpd_v2", "hpdv2"),
        *("pick_a_pic", "pick_a_pic_v1", "pick_a_pic_v2", "image_reward_db"),
    )
    files: ClassVar[tuple[str, ...]] = ("tokenizer.json", "head.safetensors", "instruction.txt")

    kind: Literal["hpsv3"] = "hpsv3"


class ImageReward(RewardParams):
    """ImageReward: BLIP with cross-attention and a small network, trained on ImageRewardDB; about standard normal."""

    implementation: ClassVar[str] = "alignment.rewards.imagereward:ImageRewardScorer"
    encoder_family: ClassVar[str] = "blip_vit_l_16"
    trained_on: ClassVar[tuple[str, ...]] = ("image_reward_db",)
    files: ClassVar[tuple[str, ...]] = ("tokenizer.json",)

    kind: Literal["imagereward"] = "imagereward"


class ClipScore(RewardParams):
    """Caption match by a contrastive CLIP: 100 * cos(text, image), not clamped, so differences stay linear."""

    implementation: ClassVar[str] = "alignment.rewards.clip_score:ClipScoreScorer"

    kind: Literal["clip_score"] = "clip_score"


class AestheticV1(RewardParams):
    """LAION's first aesthetic predictor: a linear layer on an OpenAI CLIP's image embedding, about 1 to 10."""

    implementation: ClassVar[str] = "alignment.rewards.aesthetic:AestheticV1Scorer"
    trained_on: ClassVar[tuple[str, ...]] = ("simulacra_aesthetic_captions",)
    components: ClassVar[tuple[str, ...]] = ("embedder",)
    files: ClassVar[tuple[str, ...]] = ("head.json", "head.safetensors")

    kind: Literal["aesthetic_v1"] = "aesthetic_v1"


class AestheticV2(RewardParams):
    """LAION's improved aesthetic predictor: five linear layers on CLIP ViT-L/14's image embedding, about 1 to 10."""

    implementation: ClassVar[str] = "alignment.rewards.aesthetic:AestheticV2Scorer"
    encoder_family: ClassVar[str] = "clip_vit_l_14"
    trained_on: ClassVar[tuple[str, ...]] = ("simulacra_aesthetic_captions", "logos", "ava")
    components: ClassVar[tuple[str, ...]] = ("embedder",)
    files: ClassVar[tuple[str, ...]] = ("head.json", "head.safetensors")

    kind: Literal["aesthetic_v2"] = "aesthetic_v2"


class ClipHead(RewardParams):
    """A local reward model: linear layers on a CLIP's embedding of the image, or of image and prompt."""

    implementation: ClassVar[str] = "alignment.rewards.clip_head:ClipHeadScorer"
    components: ClassVar[tuple[str, ...]] = ("embedder",)
    files: ClassVar[tuple[str, ...]] = ("head.json", "head.safetensors")

    kind: Literal["clip_head"] = "clip_head"


class Pal(RewardParams):
    """A preference head on a frozen CLIP, as `train_reward` exports it: PAL-A, PAL-B or a single Bradley-Terry model.

    The folder states the kind of head and the mixture of prototypes that it judges with.
    """

    implementation: ClassVar[str] = "alignment.rewards.pal:PalScorer"
    components: ClassVar[tuple[str, ...]] = ("embedder",)
    files: ClassVar[tuple[str, ...]] = ("head.json", "head.safetensors")

    kind: Literal["pal"] = "pal"


class Safety(RewardParams):
    """An image classifier in transformers' layout, used as a guard: 1 - p(unsafe)."""

    implementation: ClassVar[str] = "alignment.rewards.safety:SafetyScorer"
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)

    kind: Literal["safety"] = "safety"
    unsafe_labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Labels of the classifier that count as unsafe. Their probabilities are added."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability from which an image counts as unsafe; scores are then 1 or 0. None scores 1 - p(unsafe)."""


class Diversity(RewardParams):
    """Mean distance (1 - cosine) of an image to the other seeds of its prompt, by a CLIP or a DINO-like model."""

    implementation: ClassVar[str] = "alignment.rewards.diversity:DiversityScorer"
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)
    per_prompt: ClassVar[bool] = True

    kind: Literal["diversity"] = "diversity"


class ImageStatistic(RewardParams):
    """A number computed from the pixels alone, without weights."""

    implementation: ClassVar[str] = "alignment.rewards.image_statistics:ImageStatisticScorer"
    components: ClassVar[tuple[str, ...]] = ()
    has_weights: ClassVar[bool] = False

    kind: Literal["image_statistic"] = "image_statistic"
    statistic: Literal["saturation", "contrast", "brightness", "high_frequency", "checkerboard"]
    """Statistic of the pixels."""
    better: Literal["less", "more"] = "less"
    """Direction of the guard: "less" guards against excess, "more" against washed-out or blurred images."""


REWARDS: tuple[type[RewardParams], ...] = (
    ClipPreference,
    PickScore,
    HpsV2,
    HpsV3,
    ImageReward,
    ClipScore,
    AestheticV1,
    AestheticV2,
    ClipHead,
    Pal,
    Safety,
    Diversity,
    ImageStatistic,
)
Reward = Annotated[
    ClipPreference
    | PickScore
    | HpsV2
    | HpsV3
    | ImageReward
    | ClipScore
    | AestheticV1
    | AestheticV2
    | ClipHead
    | Pal
    | Safety
    | Diversity
    | ImageStatistic,
    Field(discriminator="kind"),
]
