"""Recognise weights that are damaged: a scorer with a dead layer still scores, and may even pass calibration."""

from collections.abc import Mapping, Sequence

from torch import Tensor

MOST_NAMED = 3
"""Maximum number of weights of each kind that an error names."""


def check_alive(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError when a weight of `what` has a value that is not finite, or is a matrix of zeros.

    Vectors of zeros are allowed: biases often stay there.
    """
    broken = sorted(name for name, weight in weights.items() if not bool(weight.isfinite().all()))
    empty = sorted(name for name, weight in weights.items() if weight.dim() > 1 and not bool(weight.any()))
    faults = [f"{len(broken)} weights have values that are not finite ({named(broken)})"] if broken else []
    faults += [f"{len(empty)} weights have zeros only ({named(empty)})"] if empty else []
    if faults:
        raise ValueError(f"The {what} is damaged: {', and '.join(faults)}. Download or train its weights again.")


def named(names: Sequence[str]) -> str:
    """Join the first few names for an error message."""
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
