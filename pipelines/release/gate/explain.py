"""Explain a decision in sentences: the verdict, its reasons, the other checks and the next step."""

from pipelines.contracts.release import GateCheck, GateDecision

OPENINGS = {
    "promote": "may become the champion: it meets every requirement of the policy.",
    "hold": "should not replace {champion}: the evidence is against it.",
    "inconclusive": "may or may not be better than {champion}: the evidence is sound but does not settle it.",
    "invalid": "could not be compared with {champion}: the evidence cannot be used.",
}
GAPS = {"guards": "the policy has no guard", "slices": "no slice could be measured"}
"""Warnings that a promotion must be read with, by kind of check."""
NEXT_STEPS = {
    "promote": "",
    "hold": "Train a better candidate; more prompts will not help.",
    "inconclusive": "Add prompts (the check `power` gives the number), or keep the champion.",
    "invalid": "Fix the problems listed above and evaluate again.",
}
MODES = {
    "off": "The gate is off: this verdict changes nothing.",
    "dry_run": "The gate is in dry-run mode: this verdict moves no alias.",
    "enforce": "",
}


def explain(decision: GateDecision) -> list[str]:
    """Return sentences in reading order: verdict, reasons, votes, passed checks, warnings, gaps and next step."""
    version, model = decision.candidate.version, decision.candidate.model
    incumbent = decision.champion_version
    champion = "the base model" if incumbent is None else f"the champion, version {incumbent}"
    opening = OPENINGS[decision.verdict].format(champion=champion)
    gaps = [GAPS[c.kind] for c in decision.checks if c.kind in GAPS and c.note == "warning"]
    if decision.verdict == "promote" and gaps:
        opening = f"{opening.removesuffix('.')}, but {' and '.join(gaps)}."
    sentences = [f"Version {version} of {model} {opening}"]
    sentences += decision.reasons
    sentences += _explanations(
        decision, [c for c in decision.checks if c.family == "votes" and c.explanation not in decision.reasons]
    )
    sentences += _passed_checks(decision)
    sentences += [f"Warning: {c.explanation}" for c in decision.checks if c.note == "warning"]
    sentences += [
        c.explanation for c in decision.checks if c.note == "unmeasured" and c.explanation not in decision.reasons
    ]
    return [s for s in (*sentences, NEXT_STEPS[decision.verdict], MODES[decision.mode]) if s]


def _explanations(decision: GateDecision, checks: list[GateCheck]) -> list[str]:
    """Return the explanations of the checks. In an invalid decision the votes mean nothing and are left out."""
    if decision.verdict == "invalid":
        checks = [check for check in checks if check.kind == "may_vote"]
    return [check.explanation for check in checks]


def _passed_checks(decision: GateDecision) -> list[str]:
    """Name the decisive checks that passed, one sentence per family."""
    titles = {
        "guards": "Guards",
        "slices": "Slices",
        "detectors": "Detectors",
        "power": "Power",
        "evidence": "Evidence",
    }
    sentences = []
    for family, title in titles.items():
        passed = [c for c in decision.checks if c.family == family and c.decisive and c.passed and not c.note]
        if passed:
            shown = ", ".join(":".join(check.about) or check.kind.replace("_", " ") for check in passed)
            sentences.append(f"{title} passed: {shown}.")
    return sentences
