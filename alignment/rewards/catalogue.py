"""The scorers of (image, prompt): a frozen params class each."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class RewardParams(BaseModel):
    """What every scorer states. `implementation` is imported only where torch is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    implementation: ClassVar[str]
    trained_on: ClassVar[tuple[str, ...]] = ()
    """Data sets whose labels the published weights learnt from, under the names that a project's sources may bear."""
    components: ClassVar[tuple[str, ...]] = ("",)
    """Sub-folders of the judge's folder that hold config.json and safetensors; "" is the folder itself."""
    files: ClassVar[tuple[str, ...]] = ()
    """Further files of the judge's folder."""


class ClipPreference(RewardParams):
    """A preference-tuned CLIP in the PickScore convention: exp(logit_scale) * cos(text, image)."""

    implementation: ClassVar[str] = "alignment.rewards.clip_preference:ClipPreferenceScorer"

    kind: Literal["clip_preference"] = "clip_preference"


class PickScore(RewardParams):
    """PickScore v1: a CLIP ViT-H/14 tuned on Pick-a-Pic v1, as logits: exp(logit_scale) * cos(text, image), about 20.

    Pick-a-Pic v2 holds v1, so a model trained on either is no stranger to this judge.
    """

    implementation: ClassVar[str] = "alignment.rewards.pickscore:PickScoreScorer"
    trained_on: ClassVar[tuple[str, ...]] = ("pick_a_pic", "pick_a_pic_v1", "pick_a_pic_v2")

    kind: Literal["pickscore"] = "pickscore"


class HpsV2(RewardParams):
    """HPSv2 or 2.1: cos(text, image) of a CLIP ViT-H/14 tuned on HPD v2, about 0.27; the leaderboard times 100."""

    implementation: ClassVar[str] = "alignment.rewards.hpsv2:HpsV2Scorer"
    trained_on: ClassVar[tuple[str, ...]] = ("hpd_v2", "hpdv2")

    kind: Literal["hpsv2"] = "hpsv2"
    version: Literal["2.0", "2.1"]
    """Which published weights the folder holds. Their scales differ widely, so the version is part of the digest."""
    antialias: bool = True
    """Smooth while shrinking, as torchvision does from 0.17 on; false gives the scores of older ones."""


class ClipScore(RewardParams):
    """Caption match by a contrastive CLIP: 100 * cos(text, image), not clamped, so that differences stay linear."""

    implementation: ClassVar[str] = "alignment.rewards.clip_score:ClipScoreScorer"

    kind: Literal["clip_score"] = "clip_score"


class Pal(RewardParams):
    """A preference head on a frozen CLIP, as `train_reward` exports it: PAL-A, PAL-B or a single Bradley-Terry taste.

    The folder says which head it is and with which mixture of prototypes it judges.
    """

    implementation: ClassVar[str] = "alignment.rewards.pal:PalScorer"

    kind: Literal["pal"] = "pal"


REWARDS: tuple[type[RewardParams], ...] = (ClipPreference, PickScore, HpsV2, ClipScore, Pal)
Reward = Annotated[ClipPreference | PickScore | HpsV2 | ClipScore | Pal, Field(discriminator="kind")]
