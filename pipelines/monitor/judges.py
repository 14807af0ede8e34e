"""`plumbline judges`: the judges' right to vote, before any candidate is evaluated. Reads only records."""

from dataclasses import dataclass
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
from pipelines.release.gate.evidence import last_agreements
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class _Measured:
    """A judge's agreement with people, and where it was measured. Without `agreed` it cannot be checked."""

    record: CalibrationRecord | None
    agreed: Calibration | None
    report_uri: str = ""
    fault: str = ""


def judge_states(workspace: Workspace) -> list[JudgeState]:
    """Apply the gate's rules to each judge of the evaluation, as far as possible without a candidate.

    The only answer to the question which judges may vote, for every command. A judge must be independent of the sources
    that train the project's recipes and of the judges that label them. The gate also knows a recipe's reward and the
    judges that selected candidates. Judges with the same weights have one vote, the first one's, whatever their
    settings. The agreement is that of the newest calibration or, without one, of the last decided evaluation, which
    measures it itself.
    """
    now, seen = datetime.now(UTC), dict[str, str]()
    evaluated = last_agreements(workspace)
    found = []
    for section in workspace.project.evaluation.judges:
        try:
            judge = judge_of(workspace, section)
        except ValueError as error:
            found.append(_without_weights(section, str(error)))
            continue
        measured = _measure(judge, workspace, evaluated, now=now)
        reasons, missing = _refusals(judge, measured, workspace, now=now)
        reasons += [seen[weights_of(judge)]] if weights_of(judge) in seen else []
        seen.setdefault(weights_of(judge), duplicate_of(judge.name, votes=not reasons))
        found.append(_state(judge, measured, workspace.project.gate, reasons=reasons, missing=missing, now=now))
    return found


def _measure(
    judge: Judge, workspace: Workspace, evaluated: tuple[str, list[tuple[Judge, Calibration]]], *, now: datetime
) -> _Measured:
    """Find the agreement that counts: of the newest record, else of the last evaluation with these weights."""
    record = calibrations.newest(workspace.project.name, judge, workspace.store)
    if record is None:
        uri, agreements = evaluated
        own = [agreed for other, agreed in agreements if _same_scorer(other, judge)]
        return _Measured(None, own[0] if own else None, uri if own else "")
    try:
        agreed = calibrations.counted(record, workspace.project.gate, settings=workspace.settings, now=now)
    except ValueError as error:
        return _Measured(record, None, record.report_uri, fault=f"cannot be checked: {error}")
    return _Measured(record, agreed, record.report_uri)


def _same_scorer(one: Judge, other: Judge) -> bool:
    return (one.weights_digest, one.scorer) == (other.weights_digest, other.scorer)


def _refusals(judge: Judge, measured: _Measured, workspace: Workspace, *, now: datetime) -> tuple[list[str], str]:
    """Return every reason against a judge, each the end of a sentence; and the one about a missing measurement."""
    policy, reasons = workspace.project.gate, list[str]()
    shared = sorted(_training_sources(workspace.project) & set(judge.training_sources))
    if shared:
        reasons.append(f"is not independent of what the project trains: {', '.join(shared)}")
    expired = calibrations.refusal(measured.record, policy, now)
    if measured.record is None and (expired or measured.agreed is None):
        missing = expired or "was never calibrated with these weights; the next evaluation will check it"
        return [*reasons, missing], missing
    if expired:
        reasons.append(expired)
    if measured.agreed is None:
        return [*reasons, measured.fault], ""
    return [*reasons, *disagreements(measured.agreed, policy)], ""


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
    judge: Judge, measured: _Measured, policy: GatePolicy, *, reasons: list[str], missing: str, now: datetime
) -> JudgeState:
    record = measured.record
    overall = measured.agreed or (record.calibration.overall if record else None)
    plain = JudgeState(
        judge=judge.name,
        kind=judge.scorer.kind,
        weights_digest=judge.weights_digest,
        may_vote=not reasons,
        reasons=tuple(reasons),
        unmeasured=reasons == [missing],
        report_uri=measured.report_uri,
    )
    if overall is None:
        return plain
    agreement = {"accuracy": overall.accuracy, "accuracy_low": overall.accuracy_low, "num_pairs": overall.num_pairs}
    if record is None:
        return plain.model_copy(update=agreement)
    more = {
        "age_days": calibrations.age_days(record, now),
        "alpha": record.alpha,
        "shows_60_as": record.calibration.expected_win_rate(0.6),
        "weak_slices": _weak_slices(record, policy),
    }
    return plain.model_copy(update={**agreement, **more})


def _weak_slices(record: CalibrationRecord, policy: GatePolicy) -> tuple[str, ...]:
    return tuple(
        f"{part.by} {part.name}: {part.agreement.accuracy_low:.3f} on {part.agreement.num_pairs}"
        for part in record.calibration.slices
        if part.agreement.num_pairs >= policy.minimum_calibration_pairs
        and not part.agreement.accuracy_low > policy.calibration_floor
    )
