"""Format numbers and verdicts for the report, the model card and tracking."""

import math

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import GateDecision

HEADLINES = {
    "promote": "is better than",
    "hold": "should not replace",
    "inconclusive": "is not clearly better or worse than",
    "invalid": "could not be compared with",
}
MODES = {"dry_run": " The gate is in dry-run mode: no alias moves.", "off": " The gate is off.", "enforce": ""}


def _champion_name(decision: GateDecision) -> str:
    """Return the current champion in words."""
    version = decision.champion_version
    return "the base model" if version is None else f"the champion, version {version}"


def opponent(report: EvalReport) -> str:
    """Return the name of the model that the candidate is compared with: without a champion it is the base model."""
    return "base model" if report.spec.champion.kind == "base" else "champion"


def pair_counts(snapshot: DatasetSnapshot, trained: int | None) -> str:
    """Return the pairs of a snapshot in words; `trained` is the number that the run learnt from, if known."""
    total, train = sum(snapshot.num_pairs.values()), snapshot.num_pairs.get("train", 0)
    used = ""
    if trained is not None and 0 < trained < train:
        used = f" ({trained} of them with a preference, which the model learnt from)"
    others = [f"{count} for {name}" for name, count in snapshot.num_pairs.items() if name != "train"]
    return f"{total} accepted pairs: " + ", ".join([f"{train} for training{used}", *others])


def headline(decision: GateDecision) -> str:
    """Return the verdict as one sentence."""
    relation = HEADLINES[decision.verdict]
    return f"Version {decision.candidate.version} of {decision.candidate.model} {relation} {_champion_name(decision)}."


def summary(report: EvalReport, decision: GateDecision) -> str:
    """Return the consequence of the verdict and the amount of evidence."""
    images = len(report.spec.seeds)
    alike = "" if report.num_groups is None else f" ({report.num_groups} without near-duplicates)"
    drawn = f"{images} image{'s' * (images > 1)} per prompt and model"
    basis = f"Evaluated on {report.num_prompts} prompts{alike}, with {drawn}."
    return f"{_consequence(decision)} {basis}"


def _consequence(decision: GateDecision) -> str:
    """Return the consequence of the verdict as a sentence."""
    if decision.verdict != "promote":
        follows = "The champion stays." if decision.champion_version is not None else "The base model stays in use."
    elif decision.mode == "enforce":
        follows = "It may become the champion."
    else:
        follows = "It would become the champion if the gate were enforced."
    return follows + MODES[decision.mode]


def number(value: float | None) -> str:
    """Format with up to four significant digits; a dash where there is no finite number."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def percent(value: float) -> str:
    """Format a share as percent with one decimal."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "-"


def bounds(low: float, high: float) -> str:
    """Format an interval of shares."""
    return f"{percent(low)} to {percent(high)}"


def duration(seconds: float) -> str:
    """Format a wall time as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
