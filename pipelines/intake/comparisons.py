"""The key by which rows of one comparison are found, in one batch and across batches."""

import hashlib


def comparison_key(sha256_0: str, sha256_1: str | None, *, normal: str, annotator_id: str) -> bytes:
    """Return a key that is equal for rows of one comparison, whose prompts may differ in spelling; see `normal_prompt`.

    Identity by `pair_id` takes the prompt as it is written, so duplicates are found by this key. `sha256_1` is None for
    a row with one image.
    """
    parts = [*sorted([sha256_0, sha256_1 or ""]), annotator_id, normal]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
