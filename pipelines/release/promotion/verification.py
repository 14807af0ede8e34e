"""Verify before an alias moves: the gate made this decision, and policy, version, scores, verdict, weights, signature
and champion are still the ones that were judged.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import SCORES_FILE
from pipelines.contracts.release import CandidateVersion, GateDecision
from pipelines.release.champion import ledger
from pipelines.release.champion.versions import fetch_weights, read_version
from pipelines.release.gate import decision_log
from pipelines.release.gate.evidence import read_evidence
from pipelines.release.gate.verdict import decide
from pipelines.release.registration import served_files, signing
from pipelines.store.folders import hash_folder
from pipelines.tracking import registry
from pipelines.workspace import Workspace


def check_decision(decision: GateDecision, workspace: Workspace) -> None:
    """Raise ValueError unless exactly this decision is in the store, about a version of this project."""
    project = workspace.project
    candidate = decision.candidate
    if candidate.model != project.name:
        raise ValueError(
            f"The decision is about a version of {candidate.model!r}, but the project is {project.name!r}. Name the"
            " project that the candidate was trained for."
        )
    if decision_log.find_decision(decision.digest, workspace) != decision:
        raise ValueError(
            f"The gate made no decision {decision.digest[:12]} about version {candidate.version} of {project.name!r}:"
            " the decision is not in the store, so it was edited or made with another store. Nothing was moved. Run the"
            " gate again, or correct PLUMBLINE_STORE_URI."
        )


def check_evidence(decision: GateDecision, workspace: Workspace) -> None:
    """Compare the decision with policy, version, weights and scores; ValueError names every difference."""
    project = workspace.project
    problems = []
    if decision.policy_digest != project.gate.digest:
        problems.append("the gate's policy was changed after the decision")
    problems += _version_problems(decision.candidate, workspace)
    problems += _scores_problems(decision, workspace)
    if problems:
        raise ValueError(
            f"Version {decision.candidate.version} of {project.name!r} was not promoted: {'; '.join(problems)}. Nothing"
            " was moved. Run the gate again; if weights or scores differ, evaluate again first."
        )
    check_weights(decision.candidate, workspace)


def _version_problems(candidate: CandidateVersion, workspace: Workspace) -> list[str]:
    registered = read_version(workspace, candidate.version)
    if registered is None:
        return ["the version is not in the registry"]
    judged, now = candidate.model_dump(), registered.model_dump()
    return [
        f"its {name} is {now.get(name)!r}, but the decision names {judged.get(name)!r}"
        for name in {**judged, **now}
        if now.get(name) != judged.get(name)
    ]


def _scores_problems(decision: GateDecision, workspace: Workspace) -> list[str]:
    """List the reasons why the score table is not the one that was judged, or leads to another verdict now."""
    store = workspace.store
    scores_uri = f"{decision.evaluation_uri}/{SCORES_FILE}"
    manifest = store.read_manifest(decision.evaluation_uri)
    if manifest is None or not store.exists(scores_uri):
        return [f"the evaluation in {decision.evaluation_uri} is no longer in the store"]
    data = store.read_bytes(scores_uri)
    if hashlib.sha256(data).hexdigest() != decision.scores_digest:
        return [f"the scores in {decision.evaluation_uri} are not those of the decision"]
    report = _report(manifest.value)
    if report is None or report.digest != decision.report_digest:
        return [f"the report in {decision.evaluation_uri} is not that of the decision"]
    return _verdict_problems(decision, report, data, workspace=workspace)


def _report(value: dict[str, Any]) -> EvalReport | None:
    """Return the report, or None if the value is no longer a valid report."""
    try:
        return EvalReport.model_validate(value)
    except ValueError:
        return None


def _verdict_problems(decision: GateDecision, report: EvalReport, scores: bytes, *, workspace: Workspace) -> list[str]:
    """Check that the stored verdict follows from the table under the current policy, prompts and calibrations."""
    evidence = read_evidence(
        report,
        scores,
        decision.candidate,
        champion_version=decision.champion_version,
        champion_weights_digest=decision.champion_weights_digest,
        workspace=workspace,
    )
    again = decide(evidence)
    if again.verdict == decision.verdict:
        return []
    why = " ".join(again.reasons).rstrip(".")
    return [f"the decision's verdict is {decision.verdict}, but its scores now lead to {again.verdict} ({why})"]


def check_weights(version: CandidateVersion, workspace: Workspace) -> None:
    """Hash the weights in the store and every file that MLflow serves; with a key, verify the signature.

    ValueError when a file is not the one that was registered.
    """
    project, settings = workspace.project, workspace.settings
    which = f"version {version.version} of {project.name!r}"
    with tempfile.TemporaryDirectory(prefix="plumbline-promote-") as scratch:
        fetch_weights(version.weights_uri, version.weights_digest, workspace.store, Path(scratch))
        served = registry.fetch_served(settings, project.name, version.version, Path(scratch) / "served")
        found = hash_folder(served / registry.SERVED_WEIGHTS)[0]
        if found != version.weights_digest:
            raise ValueError(
                f"MLflow serves weights with digest {found} for {which}, but {version.weights_digest} was registered:"
                f" they were changed. Nothing was moved. {_AFTER_A_CHANGE}"
            )
        changed = served_files.changed_files(served, project.name, found, workspace.store)
        if changed:
            raise ValueError(
                f"The files that MLflow serves for {which} are not the registered ones: {changed} differ. Nothing was"
                f" moved. {_AFTER_A_CHANGE}"
            )
        tags = registry.version_tags(settings, project.name, version.version) or {}
        recorded = served_files.is_recorded(project.name, found, workspace.store)
        unsigned = signing.verify(served if recorded else served / registry.SERVED_WEIGHTS, tags, settings)
    if unsigned:
        raise ValueError(f"V{which[1:]} may not become champion: {unsigned}. Nothing was moved.")


_AFTER_A_CHANGE = "Find out who changed them, then register the weights again as a new version."


def check_champion(decision: GateDecision, workspace: Workspace) -> None:
    """Raise ValueError unless the champion, read again just before the move, is the one that was evaluated against."""
    project = workspace.project
    champion = read_version(workspace, "champion")
    found = (champion.version, champion.weights_digest) if champion else (None, decision.candidate.base_digest)
    if found != (decision.champion_version, decision.champion_weights_digest):
        raise ValueError(
            f"The champion of {project.name!r} is {ledger.describe(found[0])} with weights {found[1][:12]}, but the"
            f" candidate was evaluated against {ledger.describe(decision.champion_version)} with weights"
            f" {decision.champion_weights_digest[:12]}. Nothing was moved. Evaluate against the current champion."
        )
