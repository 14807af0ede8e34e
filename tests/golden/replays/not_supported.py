"""Tells recorded cases of benchmarks and judges that we do not offer, and why."""

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
    """Any of the sets of names that one of these has."""
    return _reason(case) is not None


def replay(case: Case) -> None:
    """Say why not."""
    raise UnsupportedError(_reason(case))


def _reason(case: Case) -> str | None:
    names = set(case.fields) | set(case.params)
    return next((reason for needed, reason in REASONS.items() if needed <= names), None)
