"""The scorers of (image, prompt): a frozen params class each."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class RewardParams(BaseModel):
    """What every scorer states. `implementation` is imported only where torch is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    implementation: ClassVar[str]


class ClipPreference(RewardParams):
    """A preference-tuned CLIP in the PickScore convention: exp(logit_scale) * cos(text, image)."""

    implementation: ClassVar[str] = "alignment.rewards.clip_preference:ClipPreferenceScorer"

    kind: Literal["clip_preference"] = "clip_preference"


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


REWARDS: tuple[type[RewardParams], ...] = (ClipPreference, ClipScore, Pal)
Reward = Annotated[ClipPreference | ClipScore | Pal, Field(discriminator="kind")]
