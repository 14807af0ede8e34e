"""The LAION aesthetic predictors: ratings of an image's look, independent of its prompt."""

from alignment.rewards.clip_head import ClipHeadScorer


class AestheticV1Scorer(ClipHeadScorer):
    """One linear layer on the unit image embedding of an OpenAI CLIP, about 1 to 10.

    Source: LAION-AI/aesthetic-predictor, whose heads exist for ViT-L/14, B/32 and B/16.
    """


class AestheticV2Scorer(ClipHeadScorer):
    """Five linear layers without activations on the unit image embedding of CLIP ViT-L/14, about 1 to 10.

    Source: christophschuhmann/improved-aesthetic-predictor, the linearMSE head trained on SAC, LOGOS and AVA. The
    layers are equivalent to one direction in CLIP's space, which raises the score of any image, so this is the easiest
    judge to exploit. The reluMSE head of the same repository needs an activation and is another model.
    """
