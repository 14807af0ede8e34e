"""A scorer that judges images, as a job spec names it."""

import operator

from pydantic import Field

from alignment.catalogues.rewards import Reward
from alignment.contracts.values import Record, Sha256


class Judge(Record):
    """A scorer with its weights and the sources of its labels: a judge, a guard, or a reward to train on."""

    name: str
    scorer: Reward
    weights_digest: Sha256
    """content_digest of the scorer's folder."""
    identity: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """sha256 over the weights files alone, without other files. Older specs lack it and use `weights_digest`."""
    encoder_family: str | None = Field(default=None, exclude_if=lambda family: family is None)
    """Family of its encoder, if the project states it or it shares the encoder of another judge."""
    trained_on: tuple[str, ...] = ()
    """Sources of the labels it learnt from, besides those of its kind. It may not judge a model trained on any."""
    keeps_split: bool = Field(default=False, exclude_if=operator.not_)
    """True if Plumbline trained it, so it has not seen the calibration pairs of the sources that it learnt from."""

    @property
    def family(self) -> str:
        """Return the family of its encoder: judges of one family have the same blind spots.

        By default that of the published weights, else the judge's weights, which it shares with no other.
        """
        return self.encoder_family or self.scorer.encoder_family or self.identity or self.weights_digest

    @property
    def training_sources(self) -> tuple[str, ...]:
        """Return what a model learns from by maximising this score: the scorer (by name and weights), its sources."""
        return (self.name, f"scorer {self.identity or self.weights_digest}", *self.scorer.trained_on, *self.trained_on)
