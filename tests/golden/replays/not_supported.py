"""Recorded cases of unsupported benchmarks and judges, with reasons."""

from recorded import Case, UnsupportedError

REASONS: dict[frozenset[str], str] = {
    frozenset({"inputs.condition_ids", "inputs.pixel_values_0", "outputs.pair_score"}): (
        "MPS is published as a pickle of a whole module, which runs code when it is read; no safe weights exist"
    ),
    frozenset({"classes", "colours", "relations", "iou", "summary"}): (
        "GenEval needs a detector of mmdet 2.x, which does not install beside our libraries"
    ),
    frozenset({"csv_rows", "items"}): "DPG-Bench needs mPLUG, which is only served through modelscope's own loader",
    frozenset({"scores", "skills", "atom_count"}): (
        "Soft-TIFA's prompts and questions are CC BY-NC 4.0: not for a gate of a commercial model"
    ),
}


def takes(case: Case) -> bool:
    """True if the case has all fields of one of these methods."""
    return _reason(case) is not None


def replay(case: Case) -> None:
    """Raise UnsupportedError with the reason."""
    raise UnsupportedError(_reason(case))


def _reason(case: Case) -> str | None:
    names = set(case.fields) | set(case.params)
    return next((reason for needed, reason in REASONS.items() if needed <= names), None)
