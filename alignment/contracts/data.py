"""Value objects of pairs and features: a snapshot of pairs, the request to encode it, and the cache of features."""

from typing import Literal

from pydantic import Field

from alignment.catalogues.backbones import Backbone
from alignment.catalogues.images import Images, Square
from alignment.contracts.values import PositiveInt, Sha256, ValueObject

SQUARE = Square()  # a default that is not written: a digest says nothing about what nobody asked for


class DatasetSnapshot(ValueObject):
    """Accepted pairs, split by prompt group. The folder holds train.parquet, calibration.parquet and test.parquet.

    Columns: pair_id, prompt, caption_chosen, caption_rejected (both equal the prompt unless the source says more),
    image_chosen, image_rejected (encoded bytes), is_tie, annotator_id, source, licence, generator_chosen,
    generator_rejected (the models that drew them) and created_at, where the source says so.
    In a tie the order of the two images is the source's and means nothing; training skips ties, calibration keeps them.
    """

    uri: str
    content_digest: Sha256
    num_pairs: dict[Literal["train", "calibration", "test"], int]
    num_ties: int
    num_captioned: int | None = None
    """Training pairs, less ties, with an image whose caption is not just the prompt; None where nobody counted."""
    num_prompts: int
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    batch_digests: tuple[Sha256, ...]
    heldout_prompts_digest: Sha256
    labelled_by: tuple[str, ...] = ()
    """`Judge.lessons` of those whose verdicts stand in the place of people's in the training split."""

    @property
    def lessons(self) -> tuple[str, ...]:
        """What a model learns from these pairs; no judge that shares one of them may judge it."""
        return tuple(sorted({*self.sources, *self.labelled_by}))


class EncodeSpec(ValueObject):
    """Science of a feature cache: which pairs through which encoders."""

    snapshot_digest: Sha256
    """content_digest of the snapshot's folder."""
    base_digest: Sha256
    """content_digest of the base model's folder."""
    backbone: Backbone
    images: Images = Field(default=SQUARE, exclude_if=SQUARE.__eq__)
    shard_pairs: PositiveInt = 64
    """Pairs in one shard; a rank encodes whole shards, so the numbers do not depend on the number of ranks."""


class FeatureCache(ValueObject):
    """VAE latent means and standard deviations per image, text-encoder states once per distinct caption."""

    uri: str
    content_digest: Sha256
    spec_digest: Sha256
    num_pairs: PositiveInt
    num_captions: PositiveInt
    num_captioned: int | None = None
    """Pairs with an image whose caption is not just the prompt; None where nobody counted."""
    latent_shape: tuple[int, int, int]
    """C, H, W of one latent."""
