"""The result of a check, and the function that makes one."""

from collections.abc import Callable

from alignment.contracts.values import Record

WARNING = "WARNING:"
"""Begins a part of an observation that asks for attention and is no fault."""


class Check(Record):
    """Result of one check."""

    name: str
    ok: bool
    found: str
    """Observation, or the fault."""
    fix: str = ""
    """Way to fix the fault; empty if there is none."""


def check(name: str, look: Callable[[], str], fix: str) -> Check:
    """Return what `look` observes; its ValueError, OSError or RuntimeError is a fault, which `fix` is for."""
    try:
        return Check(name=name, ok=True, found=look())
    except (ValueError, OSError, RuntimeError) as error:
        return Check(name=name, ok=False, found=str(error), fix=fix)
