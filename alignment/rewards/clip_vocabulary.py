"""CLIP's published tokenizer, for weights that come without one (open_clip's, HPSv2's)."""

import gzip
from importlib import resources
from typing import Any

from transformers import CLIPTokenizer

MERGES = "clip_merges.txt.gz"
NUM_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer() -> Any:
    """Return transformers' tokenizer with the 49408 entries of every published CLIP of OpenAI and LAION.

    An entry's number follows from the merges: 256 bytes, the same bytes at the end of a word, one entry per merge in
    order, start, end. Long texts are cut to 77 tokens and keep the end token.
    """
    content = resources.files("alignment.rewards").joinpath(MERGES).read_bytes()
    merges = gzip.decompress(content).decode().splitlines()
    bytes_256 = _byte_characters()
    entries = [*bytes_256, *(f"{character}</w>" for character in bytes_256)]
    entries += ["".join(merge.split()) for merge in merges]
    vocabulary = {entry: number for number, entry in enumerate([*entries, START, END])}
    pairs = [tuple(merge.split()) for merge in merges]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=NUM_TOKENS)


def _byte_characters() -> list[str]:
    """Return the 256 characters that represent bytes: printable ones unchanged, then the others moved above 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(others)]
