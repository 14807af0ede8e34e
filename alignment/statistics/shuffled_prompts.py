"""Wrong prompts for a test of the judges: do they reward the match with the prompt or only the look? Torch-free."""

import hashlib
import random
from collections.abc import Sequence

from alignment.statistics.prompts import EvalPrompt


def shuffled_prompts(prompts: Sequence[EvalPrompt], seed: str) -> dict[int, str]:
    """Prompt index to the text of another prompt; empty when there is only one text.

    One cycle through the distinct texts in an order drawn from `seed` (the digest of the prompts file). No text is
    paired with itself, and the same list always gives the same pairing.
    """
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    if len(texts) < 2:
        return {}
    order = random.Random(hashlib.sha256(seed.encode()).digest())
    order.shuffle(texts)
    following = dict(zip(texts, [*texts[1:], texts[0]], strict=True))
    return {prompt.index: following[prompt.text] for prompt in prompts}
