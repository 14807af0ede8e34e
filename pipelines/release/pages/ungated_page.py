"""Card and page of a version that a person promoted while the gate was off. Both say that it is ungated."""

from datetime import UTC, datetime

from pipelines.contracts.release import CandidateVersion, LedgerEntry
from pipelines.release.champion import ledger
from pipelines.release.gate import decision_log
from pipelines.release.pages.model_card import escaped, render_ungated_card
from pipelines.release.pages.provenance import read_provenance
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace


def write_ungated_card(workspace: Workspace, candidate: CandidateVersion, *, actor: str, reason: str, move: int) -> str:
    """Write the model card to the store and return its URI. `move` is the number of the ledger entry to come."""
    project, store = workspace.project, workspace.store
    card = render_ungated_card(
        candidate,
        project,
        read_provenance(candidate, workspace),
        actor=actor,
        reason=reason,
        at=datetime.now(UTC),
        earlier=decision_log.last_decision_about(candidate.version, workspace),
    )
    uri = store.uri("evaluations", "reports", project.name, f"ungated-{candidate.version}-{move}.md")
    store.write_bytes(uri, card.encode())
    return uri


def show_ungated(workspace: Workspace, entry: LedgerEntry) -> None:
    """Update the candidate's page and the version's description in MLflow; repeated, it changes nothing more."""
    settings, version = workspace.settings, entry.to_version
    assert version is not None
    assert entry.report_uri is not None
    name = f"{entry.model} version {version}"
    note = (
        f"**{ledger.UNGATED}**: {escaped(ledger.describe_move(entry))}. The gate was off: no judge compared this"
        f" version with the model that it replaced. Model card: `{entry.report_uri}`"
    )
    run_id = runs.parent_run(settings, project=entry.model, key=name, tags={"plumbline.kind": "candidate"})
    runs.log_text(settings, run_id, workspace.store.read_bytes(entry.report_uri).decode(), "gate/model_card.md")
    tags = {"gate.verdict": ledger.UNGATED, "gate.report_uri": entry.report_uri, "gate.candidate_version": str(version)}
    runs.set_run_tags(settings, run_id, {**tags, runs.NOTE_TAG: note})
    registry.describe_version(settings, entry.model, version, note)
    runs.finish_run(settings, run_id, "FINISHED")
