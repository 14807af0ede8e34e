"""The texts that may be prompts: what a model reads must be what a person sees."""

import unicodedata

LONGEST = 4000
"""Characters of a prompt. Text encoders read a few hundred; more is a file of another kind."""
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of text: a page would show another prompt than the model reads."""


def prompt_fault(prompt: str) -> str:
    """Describe what keeps a text from being a prompt, as the end of a sentence; empty when nothing does."""
    if len(prompt) > LONGEST:
        return f"is {len(prompt)} characters long, at most {LONGEST} are allowed"
    strange = next((c for c in prompt if unicodedata.category(c) == "Cc" or c in _DIRECTION), None)
    return f"contains the control character U+{ord(strange):04X}" if strange is not None else ""
