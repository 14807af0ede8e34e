"""Columns that the kinds of preference sources return."""

import pyarrow as pa

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("prompt", pa.string()),
        pa.field("caption_0", pa.string()),  # null: the image has no separate caption
        pa.field("caption_1", pa.string()),
        pa.field("image_0", pa.binary()),  # encoded bytes, unchanged
        pa.field("image_1", pa.binary()),
        pa.field("label_0", pa.float64()),
        pa.field("label_1", pa.float64()),
        pa.field("has_label", pa.bool_()),
        pa.field("preference", pa.float64()),  # 1: image 0 preferred, 0: image 1, 0.5: tie, NaN: not a legal label
        pa.field("user_id", pa.string()),  # clear text; ingest replaces it by a hash
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("generator_0", pa.string()),
        pa.field("generator_1", pa.string()),
    ]
)
VOTE_FIELDS = (
    pa.field("num_votes", pa.int64()),  # people behind the label; null: the source states a share without a number
    pa.field("weight", pa.float64()),  # 1, or less where one ranking became several pairs
)
VOTES_SCHEMA = pa.schema(
    [*SOURCE_SCHEMA, *VOTE_FIELDS, pa.field("source_row", pa.int64())]  # the record that the pair is made from
)
"""Columns of a source whose labels are votes: `preference` is the share of the votes for image 0, in [0, 1]."""
UNPAIRED = "unpaired"
KIND_FIELD = pa.field("kind", pa.string())
UNPAIRED_SCHEMA = pa.schema([*SOURCE_SCHEMA, KIND_FIELD, pa.field("source_row", pa.int64())])
"""Columns of a source of single images: `kind` is UNPAIRED, image 0 is the image, and `preference` is 1 where it is
liked, 0 where it is disliked. Image 1, its caption and its generator are null.
"""
