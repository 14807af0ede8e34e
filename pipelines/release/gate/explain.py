"""A decision in sentences: what was decided, why, what else was seen, and what would change it."""

from pipelines.contracts.release import GateCheck, GateDecision

OPENINGS = {
    "promote": "may become the champion: everything that the policy asks for holds.",
    "hold": "should not replace {champion}: the evidence speaks against it.",
    "inconclusive": "may be better than {champion} or not: the evidence is sound but does not settle it.",
    "invalid": "could not be judged against {champion}: the evidence cannot be used.",
}
GAPS = {"guards": "it asks for no guard", "slices": "no slice could be measured"}
"""Warnings that a promotion must not be read without, by the kind of the check."""
NEXT_STEPS = {
    "promote": "",
    "hold": "Train a better candidate; more prompts will not help.",
    "inconclusive": "Add prompts (the check `power` says how many), or accept the champion.",
    "invalid": "Mend what is named above and evaluate again.",
}
MODES = {
    "off": "The gate is off: nothing follows from this verdict.",
    "dry_run": "The gate runs dry: no alias moves by this verdict.",
    "enforce": "",
}


def explain(decision: GateDecision) -> list[str]:
    """Sentences in the order in which a person asks: verdict, reasons, votes, what holds, warnings, gaps, what next."""
    version, model = decision.candidate.version, decision.candidate.model
    incumbent = decision.champion_version
    champion = "the base model" if incumbent is None else f"the champion, version {incumbent}"
    opening = OPENINGS[decision.verdict].format(champion=champion)
    gaps = [GAPS[c.kind] for c in decision.checks if c.kind in GAPS and c.note == "warning"]
    if decision.verdict == "promote" and gaps:
        opening = f"{opening.removesuffix('.')}, but {' and '.join(gaps)}."
    sentences = [f"Version {version} of {model} {opening}"]
    sentences += decision.reasons
    sentences += _told(
        decision, [c for c in decision.checks if c.family == "votes" and c.explanation not in decision.reasons]
    )
    sentences += _holding(decision)
    sentences += [f"Warning: {c.explanation}" for c in decision.checks if c.note == "warning"]
    sentences += [
        c.explanation for c in decision.checks if c.note == "unmeasured" and c.explanation not in decision.reasons
    ]
    return [s for s in (*sentences, NEXT_STEPS[decision.verdict], MODES[decision.mode]) if s]


def _told(decision: GateDecision, checks: list[GateCheck]) -> list[str]:
    """Explanations as they stand; of an invalid decision the votes mean nothing and are left out."""
    if decision.verdict == "invalid":
        checks = [check for check in checks if check.kind == "may_vote"]
    return [check.explanation for check in checks]


def _holding(decision: GateDecision) -> list[str]:
    """Decisive checks that passed, family by family, by name: what a person need not worry about."""
    titles = {
        "guards": "Guards",
        "slices": "Slices",
        "detectors": "Detectors",
        "power": "Power",
        "evidence": "Evidence",
    }
    sentences = []
    for family, title in titles.items():
        held = [c for c in decision.checks if c.family == family and c.decisive and c.passed and not c.note]
        if held:
            shown = ", ".join(":".join(check.about) or check.kind.replace("_", " ") for check in held)
            sentences.append(f"{title} that hold: {shown}.")
    return sentences
