"""Names to objects: resolve "module:attribute", and answer an unknown name with a suggestion."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


def resolve(target: str) -> Any:
    """Import the object that "package.module:attribute" names.

    Raises ImportError or AttributeError as Python does: a catalogue entry that does not resolve is our own defect.
    """
    module_name, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module_name), attribute)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name nobody knows: what it is, the nearest known one, all that are known."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"Unknown {kind} {name!r}.{suggestion} Known: {', '.join(choices) or 'none'}."
