"""`plumbline judges`: the judges' right to vote, before any candidate is evaluated. Reads only records."""

from datetime import UTC, datetime

from alignment.contracts.calibration import Calibration
from alignment.contracts.judges import Judge
from pipelines.contracts.judges import CalibrationRecord, JudgeState
from pipelines.dispatch.requests.judges import judge_of
from pipelines.project.file import Project
from pipelines.project.gate import GatePolicy
from pipelines.project.sections import JudgeSection
from pipelines.records import calibrations
from pipelines.release.gate.checks.interface import disagreements, duplicate_of, weights_of
from pipelines.workspace import Workspace


def judge_states(workspace: Workspace) -> list[JudgeState]:
    """Apply the gate's rules to each judge of the evaluation, as far as possible without a candidate.

    A judge must be independent of the sources that train the project's recipes and of the judges that label them. The
    gate also knows a recipe's reward and the judges that selected candidates. Judges with the same weights have one
    vote, the first one's, whatever their settings.
    """
    project = workspace.project
    now, seen = datetime.now(UTC), dict[str, str]()
    found = []
    for section in project.evaluation.judges:
        try:
            judge = judge_of(workspace, section)
        except ValueError as error:
            found.append(_without_weights(section, str(error)))
            continue
        known = calibrations.newest(project.name, judge, workspace.store)
        reasons, agreed = _refusals(judge, known, workspace, now=now)
        reasons += [seen[weights_of(judge)]] if weights_of(judge) in seen else []
        seen.setdefault(weights_of(judge), duplicate_of(judge.name, votes=not reasons))
        found.append(_state(judge, known, project.gate, agreed=agreed, reasons=reasons, now=now))
    return found


def _refusals(
    judge: Judge, known: CalibrationRecord | None, workspace: Workspace, *, now: datetime
) -> tuple[list[str], Calibration | None]:
    """Return every reason against a judge, each the end of a sentence, and its agreement on the pairs that count."""
    policy, reasons = workspace.project.gate, list[str]()
    shared = sorted(_training_sources(workspace.project) & set(judge.training_sources))
    if shared:
        reasons.append(f"is not independent of what the project trains: {', '.join(shared)}")
    expired = calibrations.refusal(known, policy, now)
    if known is None:
        reasons.append(expired or "was never calibrated with these weights; the next evaluation will check it")
        return reasons, None
    if expired:
        reasons.append(expired)
    try:
        agreed = calibrations.counted(known, policy, settings=workspace.settings, now=now)
    except ValueError as error:
        return [*reasons, f"cannot be checked: {error}"], None
    return [*reasons, *disagreements(agreed, policy)], agreed


def _training_sources(project: Project) -> set[str]:
    """Return what the project's offline recipes learn from: the sources of their pairs and the labelling judges."""
    sources = set(project.snapshot.sources or (source.name for source in project.sources))
    return sources | {name for section in project.labellers() for name in (section.name, *section.trained_on)}


def _without_weights(section: JudgeSection, why: str) -> JudgeState:
    return JudgeState(
        judge=section.name,
        kind=section.scorer.kind,
        weights_digest=None,
        may_vote=False,
        reasons=(f"cannot be loaded: {why}",),
    )


def _state(
    judge: Judge,
    known: CalibrationRecord | None,
    policy: GatePolicy,
    *,
    agreed: Calibration | None,
    reasons: list[str],
    now: datetime,
) -> JudgeState:
    plain = JudgeState(
        judge=judge.name,
        kind=judge.scorer.kind,
        weights_digest=judge.weights_digest,
        may_vote=not reasons,
        reasons=tuple(reasons),
    )
    if known is None:
        return plain
    own, overall = known.calibration, agreed or known.calibration.overall
    weak = [
        f"{part.by} {part.name}: {part.agreement.accuracy_low:.3f} on {part.agreement.num_pairs}"
        for part in own.slices
        if part.agreement.num_pairs >= policy.minimum_calibration_pairs
        and not part.agreement.accuracy_low > policy.calibration_floor
    ]
    return plain.model_copy(
        update={
            "accuracy": overall.accuracy,
            "accuracy_low": overall.accuracy_low,
            "num_pairs": overall.num_pairs,
            "age_days": calibrations.age_days(known, now),
            "alpha": known.alpha,
            "shows_60_as": own.expected_win_rate(0.6),
            "weak_slices": tuple(weak),
            "report_uri": known.report_uri,
        }
    )
