"""Value objects for captioning: the text that each image of a pair is trained under, and its origin. Torch-free.

DCPO trains each image of a pair under its own text. Its paper (Saeedi et al. 2025) has three ways to obtain the two.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.values import PositiveInt, Record, Sha256, ValueObject

Variant = Literal["dcpo_c", "dcpo_p", "dcpo_h"]
Level = Literal["weak", "medium", "strong"]


class Captioner(Record):
    """An image-to-text model of transformers' BLIP class, and its decoding settings. Decoding is deterministic."""

    weights_digest: Sha256
    """content_digest of the model's folder."""
    prefix: str = ""
    """Start of every caption, e.g. "a photograph of"; the model continues from there."""
    num_beams: PositiveInt = 1
    """Beam width. 1 is greedy: the likeliest token at each step."""
    max_new_tokens: PositiveInt = 30
    """Maximum length after the prefix, in the captioner's tokens. Text encoders silently cut captions at 77 tokens."""


class Perturbation(Record):
    """Damage to a text at a stated level; see `alignment.labelling.perturbation`."""

    level: Level
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class GeneratedCaptions(Record):
    """DCPO-c: both images under their generated captions."""

    kind: Literal["dcpo_c"] = "dcpo_c"
    captioner: Captioner


class PerturbedPrompts(Record):
    """DCPO-p: the chosen image under the prompt, the rejected one under a perturbed prompt. No captioner."""

    kind: Literal["dcpo_p"] = "dcpo_p"
    perturbation: Perturbation


class HybridCaptions(Record):
    """DCPO-h: both images under their generated captions, the rejected image's caption perturbed."""

    kind: Literal["dcpo_h"] = "dcpo_h"
    captioner: Captioner
    perturbation: Perturbation


CaptionMethod = Annotated[GeneratedCaptions | PerturbedPrompts | HybridCaptions, Field(discriminator="kind")]


class CaptionSpec(ValueObject):
    """Science of a captioned snapshot. The result is another DatasetSnapshot.

    The folder holds the splits and captions/. In train.parquet caption_chosen and caption_rejected are filled;
    calibration and test are copied byte for byte. captions/ holds the generated caption of each image.
    """

    snapshot: DatasetSnapshot
    """The snapshot as it was built, with an empty uri: its location is not part of the science."""
    method: CaptionMethod
    shard_images: PositiveInt = 256
    """Distinct images in one shard. A rank captions complete shards: captions do not depend on the number of ranks."""

    @model_validator(mode="after")
    def _check_uri(self) -> Self:
        if self.snapshot.uri:
            raise ValueError(f"snapshot.uri must be empty in a caption spec, but is {self.snapshot.uri!r}")
        return self
