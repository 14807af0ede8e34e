"""Resolve "module:attribute" names, and suggest a known name for an unknown one."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


def resolve(target: str) -> Any:
    """Import the object that "package.module:attribute" names.

    Raises ImportError or AttributeError as Python does: a catalogue entry that does not resolve is a bug in Plumbline.
    """
    module_name, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module_name), attribute)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error text for an unknown name: its kind, the nearest known name, all known names."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"Unknown {kind} {name!r}.{suggestion} Known: {', '.join(choices) or 'none'}."
