"""Value objects for pairs and features: a snapshot of pairs, the request to encode it, and the feature cache."""

import operator
from typing import Literal, get_args

from pydantic import Field

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.images import Images, Square
from alignment.contracts.values import NumberFormat, PositiveInt, Record, Sha256, ValueObject

Split = Literal["train", "calibration", "test"]
"""The part of a snapshot that a pair is in."""
SPLITS: tuple[Split, ...] = get_args(Split)


def _is_none(value: object) -> bool:
    return value is None


SQUARE = Square()  # the default is not serialised, so digests of specs without images stay as they were


class DatasetSnapshot(ValueObject):
    """Accepted pairs, split by prompt group. The folder holds train.parquet, calibration.parquet and test.parquet.

    Columns: pair_id, prompt, caption_chosen, caption_rejected (equal to the prompt unless the source has captions),
    image_chosen, image_rejected (encoded bytes), is_tie, annotator_id, source, licence, generator_chosen,
    generator_rejected (the models that generated them) and created_at, where the source states it.
    In a tie the order of the two images has no meaning. Training skips ties; calibration keeps them.
    Where a source has votes, also preference (the share of the votes for the chosen image, 0.5 to 1), num_votes, and
    weight (below 1 for a pair of a ranking). No objective uses these yet.
    Where a source has likes and dislikes of single images, also unpaired.parquet: pair_id, kind, split, prompt,
    caption, image, liked, annotator_id, source, licence, generator, created_at. No objective takes these rows yet.
    """

    uri: str
    content_digest: Sha256
    num_pairs: dict[Literal["train", "calibration", "test"], int]
    num_ties: int
    num_soft: int | None = Field(default=None, exclude_if=_is_none)
    """Pairs whose label is a share of votes other than all or half of them; None where no source has votes."""
    num_unpaired: dict[Literal["train", "calibration", "test"], int] | None = Field(default=None, exclude_if=_is_none)
    """Rows of unpaired.parquet by split; None where there is no such table."""
    num_captioned: int | None = None
    """Training pairs, without ties, where at least one caption differs from the prompt; None if not counted."""
    num_prompts: int
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    batch_digests: tuple[Sha256, ...]
    heldout_prompts_digest: Sha256
    labelled_by: tuple[str, ...] = ()
    """`Judge.training_sources` of the judges whose labels replace human labels in the training split."""

    @property
    def training_sources(self) -> tuple[str, ...]:
        """Return what a model learns from with these pairs. A judge that shares an entry may not judge that model."""
        return tuple(sorted({*self.sources, *self.labelled_by}))


class Encoding(Record):
    """Number formats and layout of a feature cache. They change its numbers, so they are part of its digest."""

    precision: NumberFormat = Field(default="fp32", exclude_if="fp32".__eq__)
    """Format that the VAE and the text encoders compute in. `bf16` needs half the memory and is faster on GPUs."""
    moments: NumberFormat = Field(default="fp32", exclude_if="fp32".__eq__)
    """Format in which latent means and standard deviations are stored. `bf16` halves their size."""
    distinct_images: bool = Field(default=False, exclude_if=operator.not_)
    """Encode and store an image once however many pairs show it. False stores it with each pair."""


PLAIN_ENCODING = Encoding()


class EncodeSpec(ValueObject):
    """Science of a feature cache: the pairs and the encoders."""

    snapshot_digest: Sha256
    """content_digest of the snapshot's folder."""
    base_digest: Sha256
    """content_digest of the base model's folder."""
    backbone: Backbone
    images: Images = Field(default=SQUARE, exclude_if=SQUARE.__eq__)
    encoding: Encoding = Field(default=PLAIN_ENCODING, exclude_if=PLAIN_ENCODING.__eq__)
    shard_pairs: PositiveInt = 64
    """Pairs in one shard. A rank encodes complete shards, so the numbers do not depend on the number of ranks."""


class FeatureCache(ValueObject):
    """VAE latent means and standard deviations of each image, text-encoder states of each distinct caption."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    num_pairs: PositiveInt
    num_captions: PositiveInt
    num_captioned: int | None = None
    """Pairs where at least one caption differs from the prompt; None if not counted."""
    latent_shape: tuple[int, int, int]
    """C, H, W of one latent."""
