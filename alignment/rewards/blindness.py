"""Recognise a scorer that does not look at its input: its score does not move with the image, or with the prompt."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from alignment.rewards.interface import Scorer

PROMPTS = ("a red square on a table", "a photograph of the sea at night", "seven green birds")
SIDE = 128
ROUNDING = 16 * torch.finfo(torch.float32).eps
"""Largest difference of equal scores, as a share of their size."""


def check_sight(scorer: Scorer, *, reads_prompt: bool, what: str) -> None:
    """Score a few very different pictures and prompts; ValueError when the scores ignore one of the two.

    A score that is not finite is refused as well. `reads_prompt` is False for scorers of the image alone.
    """
    pictures = _pictures()
    scores_PI = torch.stack([scorer.score(pictures, [prompt] * len(pictures)) for prompt in PROMPTS])
    if not bool(scores_PI.isfinite().all()):
        raise ValueError(f"The {what} gives a score that is not finite. Its weights are damaged; download them again.")
    limit = ROUNDING * float(scores_PI.abs().max())
    blind = [("image", 1)] if _spread(scores_PI, 1) <= limit else []
    blind += [("prompt", 0)] if reads_prompt and _spread(scores_PI, 0) <= limit else []
    if blind:
        names = " and ".join(name for name, _ in blind)
        raise ValueError(
            f"The {what} gives the same score whatever the {names}. Its weights are damaged, or belong to another kind"
            " of judge; import the published files."
        )


def _spread(scores_PI: Tensor, dim: int) -> float:
    return float((scores_PI.amax(dim) - scores_PI.amin(dim)).max())


def _pictures() -> Sequence[Image.Image]:
    """Return a gradient, a plain red picture and noise."""
    noise = torch.randint(0, 256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    gradient = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    return [gradient, Image.new("RGB", (SIDE, SIDE), "red"), Image.fromarray(noise.numpy())]
