"""Value objects of captioning: which text stands for each image of a pair, and how it is made. Torch-free.

DCPO trains each image of a pair under a text of its own. Its paper (Saeedi et al. 2025) has three ways to get the two.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.values import PositiveInt, Record, Sha256, ValueObject

Variant = Literal["dcpo_c", "dcpo_p", "dcpo_h"]
Level = Literal["weak", "medium", "strong"]


class Captioner(Record):
    """An image-to-text model of transformers' BLIP class, and how its captions are drawn; nothing in it is random."""

    weights_digest: Sha256
    """content_digest of the model's folder."""
    prefix: str = ""
    """What every caption begins with, e.g. "a photograph of"; the model goes on from there."""
    num_beams: PositiveInt = 1
    """1 is greedy: the likeliest word each time. More keep that many captions in the running."""
    max_new_tokens: PositiveInt = 30
    """Longest caption, beyond the prefix, in the captioner's tokens. Text encoders cut at 77 tokens without a word."""


class Perturbation(Record):
    """Damage to a text at a stated level, see `alignment.labelling.perturbation`."""

    level: Level
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class GeneratedCaptions(Record):
    """DCPO-c: both images under what a captioner says of them."""

    kind: Literal["dcpo_c"] = "dcpo_c"
    captioner: Captioner


class PerturbedPrompts(Record):
    """DCPO-p: the chosen image under the prompt, the rejected one under the prompt perturbed. No captioner."""

    kind: Literal["dcpo_p"] = "dcpo_p"
    perturbation: Perturbation


class HybridCaptions(Record):
    """DCPO-h: both images under what a captioner says of them, the rejected one's perturbed."""

    kind: Literal["dcpo_h"] = "dcpo_h"
    captioner: Captioner
    perturbation: Perturbation


CaptionMethod = Annotated[GeneratedCaptions | PerturbedPrompts | HybridCaptions, Field(discriminator="kind")]


class CaptionSpec(ValueObject):
    """Science of a captioned snapshot, whose answer is again a DatasetSnapshot.

    The folder holds the splits, in train.parquet of which caption_chosen and caption_rejected are filled (calibration
    and test are carried over byte for byte), and captions/ with what the captioner said of each image.
    """

    snapshot: DatasetSnapshot
    """The snapshot as it was built, its uri empty: where it lies is no part of the science."""
    method: CaptionMethod
    shard_images: PositiveInt = 256
    """Distinct images in one shard; a rank captions whole shards, so captions do not depend on the number of ranks."""

    @model_validator(mode="after")
    def _lies_nowhere(self) -> Self:
        if self.snapshot.uri:
            raise ValueError(f"snapshot.uri must be empty in a caption spec, not {self.snapshot.uri!r}")
        return self
