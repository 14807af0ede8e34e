"""PickScore, with its authors' convention."""

from alignment.rewards.clip_preference import ClipPreferenceScorer


class PickScoreScorer(ClipPreferenceScorer):
    """Logits of Kirstain et al. 2023, arXiv:2305.01569: exp(logit_scale) * cos(text, image), about 20 to 24.

    The softmax of one prompt's scores is the probability of being picked. The Diffusion-DPO authors' selector returns
    the raw cosine (about 0.2), and others divide the logits by 26. Only the scale differs, never the order.
    """
