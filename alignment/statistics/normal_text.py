"""The normal form of a prompt, by which the rules for held-out and duplicate prompts compare. Torch-free."""

import functools
import unicodedata
from itertools import chain

_ASCII = {code: " " for code in range(128) if unicodedata.category(chr(code))[0] in "PZCS"}
_NOT_SHOWN = frozenset(
    map(
        chr,
        chain(
            (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0),  # joiner, fillers, blank Braille
            range(0x180B, 0x1810),  # Mongolian selectors
            range(0xFE00, 0xFE10),  # variation selectors
            range(0xFFF0, 0xFFF9),
            range(0xE0000, 0xE1000),  # tags, and more variation selectors
        ),
    )
)
"""Characters that show nothing besides the category Cf: default ignorable code points, and U+2800."""


def normal_prompt(prompt: str) -> str:
    """Normalise a prompt so that spellings of it match: NFKC, case folded, punctuation and white space to one space.

    Characters that show nothing are removed, and letters that look like a lower-case ASCII letter, or whose capital
    looks like a capital, become that letter. A prompt that is only punctuation keeps its characters.
    """
    if prompt.isascii():
        folded = prompt.lower()
        return " ".join(folded.translate(_ASCII).split()) or " ".join(folded.split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _without_hidden(prompt)).casefold())
    folded = _without_hidden(folded)
    letters = "".join(look_alike(c) if unicodedata.category(c)[0] not in "PZCS" else " " for c in folded)
    return " ".join(letters.split()) or " ".join(folded.split())


def visible(prompt: str) -> bool:
    """Return True when a person sees something of the prompt."""
    return any(unicodedata.category(c) not in ("Cc", "Cs", "Zs", "Zl", "Zp") for c in _without_hidden(prompt))


@functools.lru_cache(maxsize=8192)
def look_alike(letter: str) -> str:
    """Return the lower-case ASCII letter that a case-folded letter can be taken for, or the letter itself.

    By Unicode's table of confusables (UTS 39). Its skeletons would also join `1` with `l` and `m` with `rn`, so that
    different ASCII prompts would match; only other letters are mapped. A letter whose capital alone is confusable is
    mapped in both cases, since case does not count.
    """
    if letter.isascii() or unicodedata.category(letter)[0] != "L":
        return letter
    from confusable_homoglyphs.confusables import confusables_data

    for form in (letter, letter.upper()):
        found = [own["c"] for own in confusables_data.get(form, ())]
        ascii_letters = sorted((c for c in found if len(c) == 1 and c.isascii() and c.isalpha()), key=str.isupper)
        if ascii_letters:
            return str(ascii_letters[0].lower())
    return letter


def _without_hidden(text: str) -> str:
    return "".join(c for c in text if c not in _NOT_SHOWN and unicodedata.category(c) != "Cf")
