"""Choose the pairs of a ballot, their order and their sides.

Everything random is a function of the subject, the annotator and the prompt: a page that is loaded again, and a program
that is started again, show the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.contracts.evaluation import image_name
from alignment.contracts.values import canonical_json
from alignment.statistics.prompts import EvalPrompt

SPARE_PROMPTS = 2
"""Prompts of an evaluation that no ballot shows: the estimate of people's win rate needs prompts without votes."""


@dataclass(frozen=True)
class BallotModel:
    """A model whose images are compared."""

    generator: str
    """Name of the model in the table of votes. The page never shows it."""
    samples_uri: str
    """Folder with its images."""


@dataclass(frozen=True)
class BallotImage:
    """One image of a pair."""

    generator: str
    uri: str


@dataclass(frozen=True)
class BallotPair:
    """Two images of one prompt and one seed, on their sides."""

    key: str
    """Identifies subject, annotator and prompt, and shows none of them."""
    prompt: str
    left: BallotImage
    right: BallotImage


def blind_pairs(
    prompts: Sequence[EvalPrompt],
    models: tuple[BallotModel, BallotModel],
    *,
    seeds: Sequence[int],
    subject: str,
    annotator: str,
    most: int,
    spare: int = 0,
) -> list[BallotPair]:
    """Return at most `most` pairs in an order that is random for each annotator.

    `subject` identifies what is voted on, such as the digest of an evaluation. Of a group of near-duplicate prompts one
    is shown, of the seeds of a prompt one, the same for all annotators. So are the last `spare` prompts in a common
    random order, which are left out: all annotators together then vote on a random sample.
    """
    common = sorted(prompts, key=lambda prompt: _number(subject, "prompt", prompt.index))
    independent: dict[tuple[str | None, int], EvalPrompt] = {}
    for prompt in common:
        independent.setdefault((prompt.group, 0) if prompt.group else (None, prompt.index), prompt)
    shown = list(independent.values())[: max(0, len(independent) - spare)]
    own = sorted(shown, key=lambda prompt: _number(subject, "order", annotator, prompt.index))[:most]
    return [_pair(prompt, models, seeds, subject=subject, annotator=annotator) for prompt in own]


def _pair(
    prompt: EvalPrompt, models: tuple[BallotModel, BallotModel], seeds: Sequence[int], *, subject: str, annotator: str
) -> BallotPair:
    seed = seeds[_number(subject, "seed", prompt.index) % len(seeds)]
    first, second = (
        BallotImage(model.generator, f"{model.samples_uri}/{image_name(prompt.index, seed)}") for model in models
    )
    swapped = _number(subject, "side", annotator, prompt.index) % 2
    return BallotPair(
        key=_digest(subject, "ballot", annotator, prompt.index).hex(),
        prompt=prompt.text,
        left=second if swapped else first,
        right=first if swapped else second,
    )


def _number(*parts: str | int) -> int:
    return int.from_bytes(_digest(*parts)[:8], "big")


def _digest(*parts: str | int) -> bytes:
    return hashlib.sha256(canonical_json(list(parts)).encode()).digest()
