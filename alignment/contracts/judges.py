"""A scorer that judges images, as a job names it."""

import operator

from pydantic import Field

from alignment.catalogues.rewards import Reward
from alignment.contracts.values import Record, Sha256


class Judge(Record):
    """A scorer with its weights and where its own labels came from: a judge, a guard, or a reward to train on."""

    name: str
    scorer: Reward
    weights_digest: Sha256
    """content_digest of its folder."""
    identity: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """sha256 over its weights files alone, whatever lies beside them; older specs have none, the folder's stands in."""
    trained_on: tuple[str, ...] = ()
    """Sources of the labels it learnt from, besides its kind's own; it may not judge a model trained on one of them."""
    keeps_split: bool = Field(default=False, exclude_if=operator.not_)
    """Whether it was trained here, so that it has not seen the calibration pairs of the sources that it learnt from."""

    @property
    def lessons(self) -> tuple[str, ...]:
        """What one learns by maximising its score: itself, under whatever name, and the sources of its labels."""
        return (self.name, f"scorer {self.identity or self.weights_digest}", *self.scorer.trained_on, *self.trained_on)
