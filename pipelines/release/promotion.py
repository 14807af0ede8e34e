"""GateDecision to alias: the only code that moves `champion` and `previous_champion`.

The order is ledger, previous_champion, champion, tags. The ledger entry is the promise: once it is there the move is
due, and a call that finds it unkept (a crash in between) keeps it before anything else. The other way round, a crash
would leave a champion that no record explains. All that follows the entry is made from the entry alone and may be done
twice.
"""

import hashlib
import logging
import tempfile
from pathlib import Path

from pipelines import registry
from pipelines.contracts import CandidateVersion, GateDecision, LedgerEntry, Promotion
from pipelines.folders import hash_folder
from pipelines.project import Project
from pipelines.release import ledger
from pipelines.release.registration import fetch_weights, read_version
from pipelines.release.standing import LEDGER_TAG, Standing, entry_tag, read_standing
from pipelines.settings import Settings
from pipelines.storage import open_store

log = logging.getLogger(__name__)


def promote(decision: GateDecision, project: Project, settings: Settings, actor: str) -> Promotion:
    """Make the candidate champion if the decision says so, its evidence is still what was judged, and nobody moved the
    champion meanwhile.

    Nothing moves, and the message says why, when the verdict is another, the policy is `off` or `dry_run`, the
    candidate is champion already, or this decision was carried out before. ValueError when decision, version, weights,
    scores, policy or champion do not fit together, or alias and ledger disagree.
    """
    _check_actor(actor)
    standing = read_standing(project.name, settings)
    if standing.problem:
        raise ValueError(standing.problem)
    if standing.unfinished:
        entry = _settle(project, settings)
        if entry.decision_digest == decision.digest:
            return _moved(entry, "finished a move that was cut short")
        standing = read_standing(project.name, settings)
    answer = _answered_before(decision, project, standing) or _not_allowed(decision, project, settings, standing)
    if answer is not None:
        return answer
    _verify(decision, project, settings)
    _check_champion(decision, project, settings)
    entry = ledger.append(
        project.name,
        settings,
        actor=actor,
        action="promote",
        from_version=decision.champion_version,
        to_version=decision.candidate.version,
        weights_digest=decision.candidate.weights_digest,
        decision_digest=decision.digest,
        report_uri=decision.report_uri,
    )
    _settle(project, settings)
    return _moved(entry, "promoted")


def rollback(
    project: Project, settings: Settings, actor: str, reason: str, *, from_version: int | None = None
) -> Promotion:
    """Put `previous_champion` back. It then names the version rolled back from, so that a second call rolls forward.

    A caller that may be retried names the champion it means to leave in `from_version`: when that was rolled back from
    already, nothing moves. Works even when the champion's version was deleted. ValueError without a reason or a
    previous champion, when the champion is another than `from_version`, or the weights to go back to have changed.
    """
    _check_actor(actor)
    if not reason.strip():
        raise ValueError("A rollback needs a reason, for the ledger. Give one, e.g. 'too many black images'.")
    standing = read_standing(project.name, settings)
    if standing.unfinished:
        entry = _settle(project, settings)
        if entry.action == "rollback":
            return _moved(entry, "finished a rollback that was cut short")
        standing = read_standing(project.name, settings)
    if standing.problem and not (standing.deleted and standing.entries):
        raise ValueError(standing.problem)
    repeated = _rolled_back_before(standing, from_version)
    if repeated is not None:
        return repeated
    target = _rollback_target(project, settings, standing)
    entry = ledger.append(
        project.name,
        settings,
        actor=actor,
        action="rollback",
        from_version=standing.entries[-1].to_version,
        to_version=target.version,
        weights_digest=target.weights_digest,
        decision_digest=None,
        report_uri=None,
        reason=reason,
    )
    _settle(project, settings)
    return _moved(entry, "rolled back")


# --- may it move? ---------------------------------------------------------------------------------------------------


def _check_actor(actor: str) -> None:
    if not actor.strip():
        raise ValueError("The ledger records who moves the champion. Give an actor, e.g. a user name or 'airflow'.")


def _answered_before(decision: GateDecision, project: Project, standing: Standing) -> Promotion | None:
    """The first answer, when there is nothing left to do for this decision."""
    candidate = decision.candidate
    if candidate.model != project.name:
        raise ValueError(
            f"The decision is about a version of {candidate.model!r}, the project is {project.name!r}. Name the project"
            " that the candidate was trained for."
        )
    if standing.champion == candidate.version:
        message = f"version {candidate.version} is champion already; nothing was moved"
        return _unmoved(decision, standing, message, entry=standing.entries[-1])
    done = next((entry for entry in standing.entries if entry.decision_digest == decision.digest), None)
    if done is not None:
        message = (
            f"this decision made version {done.to_version} champion in ledger entry {done.sequence}, and the alias went"
            " on since; nothing was moved. A new evaluation, or a rollback, can bring it back"
        )
        return _unmoved(decision, standing, message, entry=done)
    return None


def _not_allowed(decision: GateDecision, project: Project, settings: Settings, standing: Standing) -> Promotion | None:
    """Why policy or verdict forbid a move. The verdict is noted on the version either way."""
    candidate = decision.candidate
    modes = {decision.mode, project.gate.mode}
    if modes == {"enforce"} and decision.verdict == "promote":
        return None
    if registry.version_tags(settings, project.name, candidate.version) is not None:
        registry.set_version_tags(settings, project.name, candidate.version, _gate_tags(decision))
    if decision.verdict != "promote":
        message = f"the gate said {decision.verdict}: {' '.join(decision.reasons)}"
    else:
        mode = "off" if "off" in modes else "dry_run"
        message = f"the gate said promote, but its policy is `{mode}`: nothing was moved"
    return _unmoved(decision, standing, message, entry=None)


def _gate_tags(decision: GateDecision) -> dict[str, str]:
    return {
        "gate.verdict": decision.verdict,
        "gate.mode": decision.mode,
        "gate.report_uri": decision.report_uri,
        "gate.decision_digest": decision.digest,
    }


# --- is everything still what was judged? ---------------------------------------------------------------------------


def _verify(decision: GateDecision, project: Project, settings: Settings) -> None:
    """Compare the decision with policy, version, weights and scores; ValueError names all that differs."""
    problems = []
    if decision.policy_digest != project.gate.digest:
        problems.append("the gate's policy was changed after the decision")
    problems += _version_problems(decision.candidate, project, settings)
    problems += _scores_problems(decision, settings)
    if problems:
        raise ValueError(
            f"Version {decision.candidate.version} of {project.name!r} was not promoted: {'; '.join(problems)}. Nothing"
            " was moved. Run the gate again, on a new evaluation where weights or scores differ."
        )
    _verify_weights(decision.candidate, project, settings)


def _version_problems(candidate: CandidateVersion, project: Project, settings: Settings) -> list[str]:
    registered = read_version(project, settings, candidate.version)
    if registered is None:
        return ["the version is not in the registry"]
    judged, now = candidate.model_dump(), registered.model_dump()
    return [f"its {name} is {now[name]!r}, judged was {judged[name]!r}" for name in now if now[name] != judged[name]]


def _scores_problems(decision: GateDecision, settings: Settings) -> list[str]:
    """The score table must be the one that was judged, since the decision is recomputed from it."""
    store = open_store(settings.store_uri, settings)
    scores_uri = f"{decision.evaluation_uri}/scores.parquet"
    if not store.exists(scores_uri):
        return [f"the evaluation in {decision.evaluation_uri} is gone"]
    if hashlib.sha256(store.read_bytes(scores_uri)).hexdigest() != decision.scores_digest:
        return [f"the scores in {decision.evaluation_uri} are not those of the decision"]
    return []


def _verify_weights(version: CandidateVersion, project: Project, settings: Settings) -> None:
    """Hash every byte of the weights, in the store and as MLflow would serve them."""
    with tempfile.TemporaryDirectory(prefix="plumbline-promote-") as scratch:
        fetch_weights(version.weights_uri, version.weights_digest, settings, Path(scratch))
        served = registry.fetch_version_weights(settings, project.name, version.version, Path(scratch) / "served")
        found = hash_folder(served)[0]
    if found != version.weights_digest:
        raise ValueError(
            f"MLflow serves weights with digest {found} for version {version.version} of {project.name!r}, registered"
            f" were {version.weights_digest}: they were changed. Nothing was moved. Delete it and register again."
        )


def _check_champion(decision: GateDecision, project: Project, settings: Settings) -> None:
    """The champion, read once more just before the switch, must be the one that was evaluated against."""
    champion = read_version(project, settings, "champion")
    found = (champion.version, champion.weights_digest) if champion else (None, decision.candidate.base_digest)
    if found != (decision.champion_version, decision.champion_weights_digest):
        raise ValueError(
            f"The champion of {project.name!r} is {ledger.describe(found[0])} with weights {found[1][:12]}, the"
            f" candidate was evaluated against {ledger.describe(decision.champion_version)} with weights"
            f" {decision.champion_weights_digest[:12]}. Nothing was moved. Evaluate against the present champion."
        )


def _rolled_back_before(standing: Standing, from_version: int | None) -> Promotion | None:
    """The first answer to a rollback that is asked for again; ValueError when another champion was meant."""
    head = standing.entries[-1] if standing.entries else None
    if head is None or from_version is None or head.to_version == from_version:
        return None
    if head.action == "rollback" and head.from_version == from_version:
        return _moved(head, "had been rolled back already; nothing was moved").model_copy(update={"moved": False})
    raise ValueError(
        f"The champion of {head.model!r} is version {head.to_version}, not {from_version}. Nothing was moved. Name the"
        " champion that you want to leave."
    )


def _rollback_target(project: Project, settings: Settings, standing: Standing) -> CandidateVersion:
    if not standing.entries:
        raise ValueError(f"Model {project.name!r} has no champion yet: the base model is in place. Nothing was moved.")
    current = standing.entries[-1].to_version
    target = read_version(project, settings, "previous_champion")
    if target is None or target.version == current:
        raise ValueError(
            f"Model {project.name!r} has no previous champion to go back to from version {current}. Nothing was moved."
            " Point alias `previous_champion` at a version in MLflow to choose one."
        )
    _verify_weights(target, project, settings)
    return target


# --- the move -------------------------------------------------------------------------------------------------------


def _settle(project: Project, settings: Settings) -> LedgerEntry:
    """Bring aliases and tags to where the ledger's last entry puts them, and look whether it still is the last."""
    while True:
        head = ledger.entries(project.name, settings)[-1]
        _apply(head, settings)
        if ledger.entries(project.name, settings)[-1].sequence == head.sequence:
            return head


def _apply(entry: LedgerEntry, settings: Settings) -> None:
    model, leaving = entry.model, entry.from_version
    if leaving is not None and registry.version_tags(settings, model, leaving) is not None:
        registry.set_alias(settings, model, "previous_champion", leaving)
    else:
        registry.delete_alias(settings, model, "previous_champion")
    registry.set_alias(settings, model, "champion", entry.to_version)
    tags = {"champion.by": entry.actor, "champion.since": entry.at.isoformat()}
    if entry.action == "promote":
        tags |= {"gate.verdict": "promote", "gate.mode": "enforce"}
        tags |= {"gate.report_uri": entry.report_uri or "", "gate.decision_digest": entry.decision_digest or ""}
    # Last: this tag says that all the rest is done.
    registry.set_version_tags(settings, model, entry.to_version, tags | {LEDGER_TAG: entry_tag(entry)})
    log.info("Champion of %s: %s -> version %d", model, ledger.describe(leaving), entry.to_version)


def _moved(entry: LedgerEntry, message: str) -> Promotion:
    return Promotion(
        model=entry.model,
        moved=True,
        from_version=entry.from_version,
        to_version=entry.to_version,
        decision_digest=entry.decision_digest,
        ledger_entry=entry.sequence,
        message=f"{message}: {ledger.describe(entry.from_version)} -> {ledger.describe(entry.to_version)}",
    )


def _unmoved(decision: GateDecision, standing: Standing, message: str, entry: LedgerEntry | None) -> Promotion:
    return Promotion(
        model=decision.candidate.model,
        moved=False,
        from_version=standing.champion,
        to_version=standing.champion,
        decision_digest=decision.digest,
        ledger_entry=entry.sequence if entry else None,
        message=message,
    )
