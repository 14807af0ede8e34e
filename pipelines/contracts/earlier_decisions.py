"""Reading and writing of gate decisions of schema version 2, whose checks had two strings, `name` and `required`.

No other code parses those strings. A decision keeps the schema version with which it was made and is written in the
form of that version, so that its digest stays equal to the one in the ledger and the registry.
"""

import re
from collections.abc import Mapping
from typing import Any

FIELDS_SINCE = 3
"""First schema version of a decision whose checks have separate fields."""

_NEW_FIELDS = {"kind", "subject", "limit", "against", "relation", "bound"}
_LIMITS = ("relative", "floor", "ceiling", "mcnemar", "anchor")
_REQUIRED = re.compile(
    r"(?:p |lower bound |share |fall )?(>=|<=|>|<|not below|not clearly >|within) (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
    r"(?: on >= \d+ pairs, independent)?"
)


def read_check(check: Mapping[str, Any]) -> dict[str, Any]:
    """Return a check of version 2 with the fields of the current version."""
    bound = _REQUIRED.fullmatch(str(check.get("required")))
    return {
        **_named(str(check["name"])),
        "relation": bound[1] if bound else None,
        "bound": float(bound[2]) if bound else None,
        **{field: value for field, value in check.items() if field != "name"},
    }


def _named(name: str) -> dict[str, str | None]:
    """Split `kind:subject`, `guard:subject:limit` or `rank_correlation:subject:against`."""
    kind, colon, subject = name.partition(":")
    named: dict[str, str | None] = {"kind": kind, "subject": subject if colon else None}
    head, _, last = subject.rpartition(":")
    if kind == "guard" and head and last in _LIMITS:
        return {**named, "subject": head, "limit": last}
    return {**named, "subject": head, "against": last} if kind == "rank_correlation" else named


def write_check(check: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a check of the current version in the form of version 2."""
    return {"name": name, **{field: value for field, value in check.items() if field not in _NEW_FIELDS}}
