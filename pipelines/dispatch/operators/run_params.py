"""Parameters that a person may give a DAG run: whole numbers, flags and one line of text.

Whoever may trigger a DAG sets them. None names a file, an image or code to run, and each is bounded. A run's conf may
contain further names; Airflow adds them to its params, and no task reads them.
"""

from airflow.sdk import Param

_LARGEST = 2**31 - 1
"""Largest integer of MLflow's database."""
_MOST_LISTED = 100
_LONGEST_TEXT = 500
_ONE_LINE = r"^[^\x00-\x1f\x7f\u2028-\u202e\u2066-\u2069]+$"
"""Text without line breaks, control characters, and marks that reorder the text around them."""


def number(description: str) -> Param:
    """Return a whole number, 0 by default."""
    return Param(0, type="integer", minimum=0, maximum=_LARGEST, description=description)


def optional_version(description: str) -> Param:
    """Return a version of the model, none by default."""
    return Param(None, type=["null", "integer"], minimum=1, maximum=_LARGEST, description=description)


def versions(description: str) -> Param:
    """Return a list of versions of the model, empty by default."""
    items = {"type": "integer", "minimum": 1, "maximum": _LARGEST}
    return Param([], type="array", items=items, maxItems=_MOST_LISTED, description=description)


def flag(description: str) -> Param:
    """Return a switch, off by default."""
    return Param(False, type="boolean", description=description)


def digest(description: str) -> Param:
    """Return a sha256, which must be given."""
    return Param("", type="string", pattern=r"^[0-9a-f]{64}$", description=description)


def user(description: str) -> Param:
    """Return the name of a user, empty by default."""
    return Param(
        "", type="string", maxLength=_LONGEST_TEXT, pattern=_ONE_LINE.replace("+", "*"), description=description
    )


def line(description: str) -> Param:
    """Return one line of text, which must be given."""
    return Param("", type="string", minLength=3, maxLength=_LONGEST_TEXT, pattern=_ONE_LINE, description=description)
