"""The LAION aesthetic predictors: how pretty an image is, whatever was asked for."""

from alignment.rewards.clip_head import ClipHeadScorer


class AestheticV1Scorer(ClipHeadScorer):
    """One linear layer on the unit image embedding of an OpenAI CLIP, about 1 to 10.

    Source: LAION-AI/aesthetic-predictor, whose heads exist for ViT-L/14, B/32 and B/16.
    """


class AestheticV2Scorer(ClipHeadScorer):
    """Five linear layers without activations on the unit image embedding of CLIP ViT-L/14, about 1 to 10.

    Source: christophschuhmann/improved-aesthetic-predictor, the linearMSE head trained on SAC, LOGOS and AVA. The
    layers amount to one direction in CLIP's space, which raises the score of any image: the easiest judge to please
    without merit. The reluMSE head of the same place needs an activation and is not this one.
    """
