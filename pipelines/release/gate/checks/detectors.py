"""Detectors of reward hacking: a judge prefers the candidate although people would not. Each warns or blocks by
policy."""

from collections.abc import Sequence
from itertools import combinations

from alignment.contracts.evaluation import Comparison
from alignment.statistics.comparison import Floats, mean_interval
from alignment.statistics.reward_hacking import gain_gap, persisting_gain, rank_correlation, seed_differences
from alignment.statistics.score_grids import SHUFFLED
from pipelines.contracts.release import CheckKind, GateCheck, Relation
from pipelines.project.gate import Detector, DriftRule
from pipelines.release.gate.checks.interface import Evidence, Finding, finite, watch

SCORER = "scorer "
"""Prefix of a scorer in `Judge.training_sources`, before the digest of its weights."""


def detector_checks(evidence: Evidence, voting: Sequence[Comparison]) -> list[Finding]:
    """Run every detector that the policy does not switch off."""
    judges = [comparison.scorer for comparison in voting]
    rules = evidence.policy.detectors
    findings: list[Finding] = []
    if rules.trained_on_gap.action != "off":
        findings += _trained_on(evidence, judges, rules.trained_on_gap)
    if rules.lone_judge.action != "off":
        findings += _lone(evidence, judges, rules.lone_judge)
    if rules.persisting_gain.action != "off":
        findings += [_persisting(evidence, judge, rules.persisting_gain) for judge in judges]
    if rules.rank_correlation.action != "off":
        findings += [_correlation(evidence, *pair, rule=rules.rank_correlation) for pair in combinations(judges, 2)]
    if rules.prediction_norm.action != "off":
        findings.append(_prediction_norm(evidence, rules.prediction_norm))
    for name, rule in sorted(rules.drift.items()):
        if rule.action != "off":
            findings.append(_drift(evidence, name, rule))
    return findings


def _blank(
    kind: CheckKind,
    subject: str | None,
    relation: Relation | None = None,
    bound: float | None = None,
    *,
    against: str | None = None,
    required: str = "",
) -> GateCheck:
    """Return a detector's check before anything is measured."""
    return GateCheck(
        kind=kind,
        subject=subject,
        against=against,
        relation=relation,
        bound=bound,
        measured=None,
        required=required,
        passed=True,
        family="detectors",
        explanation="",
    )


def _filled(blank: GateCheck, measured: float | None, explanation: str) -> GateCheck:
    return blank.model_copy(update={"measured": finite(measured), "explanation": explanation})


def _unmeasured(blank: GateCheck, why: str, rule: Detector) -> Finding:
    return watch(_filled(blank, None, f"{why}."), rule.action, breached=False, measured=False)


# --- one judge gains, the others do not -----------------------------------------------------------------------------


def _trained_on(evidence: Evidence, voting: Sequence[str], rule: Detector) -> list[Finding]:
    """Compare each judge that the candidate learnt from with the mean of those that may vote.

    If a scorer rewarded, labelled or selected the candidate and is not a judge of the evaluation, its gain is
    unmeasured. A candidate that learnt only from people has no such scorer: there is nothing to compare, and the
    evidence remains valid.
    """
    trained = [judge.name for judge in evidence.report.spec.judges if evidence.shared_sources(judge)]
    findings = [_gap(evidence, "trained_on_gap", name, voting, rule=rule) for name in trained]
    findings += [_missing_scorer(source, rule) for source in _missing_scorers(evidence)]
    return findings or [_nothing_trained_on()]


def _missing_scorers(evidence: Evidence) -> list[str]:
    """List the scorers that the candidate learnt from and that are not judges of the evaluation."""
    present = {source for judge in evidence.report.spec.judges for source in evidence.shared_sources(judge)}
    return [source for source in evidence.candidate.trained_on if source.startswith(SCORER) and source not in present]


def _missing_scorer(source: str, rule: Detector) -> Finding:
    digest = source.removeprefix(SCORER)
    why = (
        f"The candidate was rewarded, labelled or selected by a scorer with weights {digest[:12]}, which is not a judge"
        " of the evaluation, so it is unknown whether it was hacked. Add it to evaluation.judges; it gets no vote there"
    )
    return _unmeasured(_blank_gap("trained_on_gap", digest[:12], rule), why, rule)


def _blank_gap(kind: CheckKind, subject: str, rule: Detector) -> GateCheck:
    return _blank(kind, subject, "<=", rule.margin, required=f"lower bound <= {rule.margin:g}")


def _nothing_trained_on() -> Finding:
    text = "The candidate did not learn from any judge of the evaluation, so there is no gap to measure."
    check = _filled(_blank("trained_on_gap", None, required="a judge that it learnt from"), None, text)
    return Finding(check.model_copy(update={"decisive": False, "note": "unmeasured"}))


def _lone(evidence: Evidence, voting: Sequence[str], rule: Detector) -> list[Finding]:
    """Compare each voting judge with the mean of the others; no findings with fewer than two judges."""
    if len(voting) < 2:
        return []
    return [
        _gap(evidence, "lone_judge", name, [other for other in voting if other != name], rule=rule) for name in voting
    ]


def _gap(evidence: Evidence, kind: CheckKind, judge: str, others: Sequence[str], *, rule: Detector) -> Finding:
    blank = _blank_gap(kind, judge, rule)
    own = evidence.differences(judge)
    held_out = [d for d in (evidence.differences(other) for other in others) if d is not None]
    if own is None or not held_out or len(held_out) != len(others):
        return _unmeasured(blank, f"There is no other judge to compare the gain under {judge} with", rule)
    gap, low, high = gain_gap(own, held_out, confidence=evidence.report.spec.confidence)
    breached = low > rule.margin
    result = "exceeds" if breached else "does not clearly exceed"
    check = _filled(
        blank,
        low,
        f"The gain under {judge} {result} the mean gain under {', '.join(others)} by more than {rule.margin:g} standard"
        f" deviations: the difference is {gap:+.3f} (between {low:.3f} and {high:.3f}).",
    )
    return watch(check, rule.action, breached=breached)


# --- prompt match or style ------------------------------------------------------------------------------------------


def _persisting(evidence: Evidence, judge: str, rule: Detector) -> Finding:
    required = f"share not clearly > {rule.margin:g}"
    blank = _blank("persisting_gain", judge, "not clearly >", rule.margin, required=required)
    shuffled_P, true_P = _shuffled(evidence, judge)
    if shuffled_P is None or true_P is None:
        return _unmeasured(blank, f"{judge} did not score the images against other prompts", rule)
    confidence = evidence.report.spec.confidence
    gained = mean_interval(true_P, confidence=confidence)[0] > 0
    share, low, _ = persisting_gain(true_P, shuffled_P, share=rule.margin, confidence=confidence)
    if not gained:
        check = _filled(blank, None, f"{judge} shows no clear gain, so there is no gain to test for style.")
        return Finding(check.model_copy(update={"decisive": False}))
    breached = low > 0
    result = "rewards style, not prompt match" if breached else "does not clearly reward style alone"
    check = _filled(
        blank,
        share,
        f"{judge} {result}: {share:.0%} of its gain remains when the images are scored against other prompts;"
        f" more than {rule.margin:.0%} counts as style.",
    )
    return watch(check, rule.action, breached=breached)


def _shuffled(evidence: Evidence, judge: str) -> tuple[Floats | None, Floats | None]:
    """Return the differences under other prompts and, on the same seeds, under the true prompts."""
    role = f"candidate{SHUFFLED}"
    if not evidence.scores.has(judge, role):
        return None, None
    seeds = [int(seed) for seed in evidence.scores.grid(judge, role).seeds_S]
    return evidence.differences(judge, shuffled=True), evidence.differences(judge, seeds=seeds)


# --- judges disagree, images drift ----------------------------------------------------------------------------------


def _correlation(evidence: Evidence, first: str, second: str, *, rule: Detector) -> Finding:
    """Compare the rank correlation of two judges' gains with their correlation on the champion alone.

    The champion's seeds, split in two halves, are an A/A run: their correlation is the judges' usual agreement.
    """
    required = f"fall not clearly > {rule.margin:g}"
    blank = _blank("rank_correlation", first, "not clearly >", rule.margin, against=second, required=required)
    gains = [evidence.differences(judge) for judge in (first, second)]
    usual = [
        seed_differences(evidence.scores.grid(judge, "champion")) if evidence.scores.has(judge, "champion") else None
        for judge in (first, second)
    ]
    if any(values is None for values in (*gains, *usual)):
        return _unmeasured(
            blank, f"{first} and {second}: their usual agreement cannot be measured with fewer than two seeds", rule
        )
    confidence = evidence.report.spec.confidence
    rho, _, high = rank_correlation(gains[0], gains[1], confidence=confidence)  # type: ignore[arg-type]
    before, low, _ = rank_correlation(usual[0], usual[1], confidence=confidence)  # type: ignore[arg-type]
    breached = low - high > rule.margin
    result = "agree less than usual" if breached else "agree about as usual"
    check = _filled(
        blank,
        before - rho,
        f"{first} and {second} {result} over prompts: the rank correlation of their gains is {rho:.2f} (at most"
        f" {high:.2f}), for the champion against itself {before:.2f} (at least {low:.2f}); a drop of {rule.margin:g} is"
        " tolerated.",
    )
    return watch(check, rule.action, breached=breached)


def _drift(evidence: Evidence, name: str, rule: DriftRule) -> Finding:
    """Check whether an image statistic changed in either direction by more than the margin, with its whole interval."""
    relative = rule.unit == "sd"
    blank = _blank("drift", name, "within", rule.margin, required=f"within {rule.margin:g} sd" if relative else "")
    differences_P = evidence.differences(name)
    if differences_P is None:
        return _unmeasured(blank, f"{name} was not measured. Add it to evaluation.guards", rule)
    spread = float(evidence.scores.grid(name, "champion").prompt_means().std(ddof=1))
    low, high = mean_interval(differences_P, confidence=evidence.report.spec.confidence)
    margin, change = rule.absolute(spread), float(differences_P.mean())
    breached = low > margin or high < -margin
    measured = change if not relative else change / spread if spread > 0 else None
    unit = f" ({rule.margin:g} standard deviations of the champion over prompts)" if relative else ""
    check = _filled(
        blank,
        measured,
        f"{name} {'drifted' if breached else 'did not clearly drift'}: the images' mean changed by {low:.3g} to"
        f" {high:.3g}; {margin:.3g}{unit} in either direction is tolerated.",
    )
    return watch(check, rule.action, breached=breached)


# --- the denoiser's predictions -------------------------------------------------------------------------------------


def _prediction_norm(evidence: Evidence, rule: Detector) -> Finding:
    """Check how much longer or shorter the policy's predictions are than the base's, where they differ most."""
    blank = _blank("prediction_norm", None, "within", rule.margin)
    ratios = evidence.candidate.prediction_norm_ratios
    if not ratios:
        return _unmeasured(blank, "The training of the candidate did not compare its predictions with the base's", rule)
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    breached = abs(worst - 1) > rule.margin
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    check = _filled(
        blank,
        worst - 1,
        f"The denoiser's predictions have {listed} times the base's norm, from the least noise to the most;"
        f" {rule.margin:g} in either direction is tolerated."
        + (
            " Images of such a model tend to be harsh or washed out: train less, or closer to the base."
            if breached
            else ""
        ),
    )
    return watch(check, rule.action, breached=breached)
