"""Gate decisions in the store, by digest and in the order in which they were made.

evaluations/decisions/PROJECT/DIGEST.json contains a decision. In the same folder, order/000001.json and following name
the digests in order, and asked/DIGEST.json names the person who requested the decision.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignment.contracts.evaluation import EvalReport
from alignment.statistics.tries import Tries, quarter_of
from pipelines.contracts.release import GateDecision
from pipelines.project.file import Project, load_project
from pipelines.records.series import Series, series_of_json
from pipelines.settings import Settings
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"
"""Stands for the verdict of a decision that is missing or was changed."""


def save_decision(decision: GateDecision, workspace: Workspace) -> str:
    """Store a decision and return its URI. Saving the newest one again changes nothing."""
    store = workspace.store
    uri = store.uri(*_folder(workspace.project), f"{decision.digest}.json")
    store.create_bytes(uri, decision.model_dump_json(indent=1).encode())
    line = {
        "decision_digest": decision.digest,
        "at": datetime.now(UTC).isoformat(),
        "version": decision.candidate.version,
        "weights_digest": decision.candidate.weights_digest,
        "report_digest": decision.report_digest,
        "verdict": decision.verdict,
    }
    _order(store, workspace.project).append(
        lambda number, last: None if last and last["decision_digest"] == decision.digest else line
    )
    return uri


def _read_decision(digest: str, workspace: Workspace) -> GateDecision:
    """Read a decision by its digest; ValueError when there is none, or its content has another digest."""
    store = workspace.store
    uri = store.uri(*_folder(workspace.project), f"{digest}.json")
    decision = GateDecision.model_validate_json(store.read_bytes(uri))
    if decision.digest != digest:
        raise ValueError(f"{uri} holds a decision with digest {decision.digest}: it was changed. Run the gate again.")
    return decision


def find_decision(digest: str, workspace: Workspace) -> GateDecision | None:
    """Find a decision by its digest; None when there is none, ValueError when it was changed."""
    store = workspace.store
    if not store.exists(store.uri(*_folder(workspace.project), f"{digest}.json")):
        return None
    return _read_decision(digest, workspace)


def last_decision(workspace: Workspace) -> GateDecision | None:
    """Read the newest decision of a project; None when there is none."""
    _, line = _order(workspace.store, workspace.project).last()
    return _read_decision(line["decision_digest"], workspace) if line else None


def last_decision_about(version: int, workspace: Workspace, *, digest: str = "") -> GateDecision | None:
    """Find the newest decision about a version whose digest begins with `digest`; None when there is none."""
    order = _order(workspace.store, workspace.project)
    for number in reversed(order.numbers()):
        found = str(order.read(number)["decision_digest"])
        if found.startswith(digest):
            decision = _read_decision(found, workspace)
            if decision.candidate.version == version:
                return decision
    return None


def judged_versions(workspace: Workspace) -> set[tuple[int, str]]:
    """List version and weights digest of every candidate with a decision, whatever its verdict.

    A missing or unreadable decision is logged and ignored, so its version is judged again.
    """
    store = workspace.store
    lines = _order(store, workspace.project).entries()
    return {found for line in lines if (found := _judged_by(line, store, workspace.project)) is not None}


def verdicts_after(number: int, workspace: Workspace) -> list[tuple[int, datetime | None, str]]:
    """Return number, time and verdict of the decisions after `number`, oldest first.

    The verdict is `unreadable` for a decision that is missing or was changed, and the time None where a line has none.
    """
    order = _order(workspace.store, workspace.project)
    found: list[tuple[int, datetime | None, str]] = []
    for later in order.numbers():
        if later > number:
            line = order.read(later)
            at = datetime.fromisoformat(line["at"]) if "at" in line else None
            found.append((later, at, _verdict(str(line["decision_digest"]), workspace)))
    return found


def tries_before(report: EvalReport, workspace: Workspace, now: datetime) -> Tries:
    """Count the evaluations decided before this one in the quarter of its first valid decision, else that of `now`.

    Decisions on one evaluation are one try, invalid ones are none. A later decision on the same evaluation has the same
    count, so a verdict can be computed again.
    """
    tries: dict[str, tuple[str, str]] = {}
    for at, digest, verdict in _lines_about(workspace):
        if verdict == "invalid":
            continue
        if digest == report.digest:
            return _tries_of(quarter_of(at), tries)
        tries.setdefault(digest, (quarter_of(at), verdict))
    return _tries_of(quarter_of(now), tries)


def _tries_of(quarter: str, tries: Mapping[str, tuple[str, str]]) -> Tries:
    verdicts = [verdict for own, verdict in tries.values() if own == quarter]
    return Tries(quarter, len(verdicts), verdicts.count("promote"))


def _lines_about(workspace: Workspace) -> Iterator[tuple[datetime, str, str]]:
    """Yield time, digest of the report and verdict of every decision, oldest first.

    Lines of earlier versions do not name the last two, so their decision is read; those of 0.1.0 have no time and are
    left out.
    """
    for line in _order(workspace.store, workspace.project).entries():
        if "at" not in line:
            continue
        at = datetime.fromisoformat(line["at"])
        if "report_digest" in line:
            yield at, str(line["report_digest"]), str(line["verdict"])
            continue
        try:
            decision = _read_decision(str(line["decision_digest"]), workspace)
        except (OSError, ValueError) as error:
            log.warning("Decision %s cannot be read: %s", line["decision_digest"], error)
            continue
        yield at, decision.report_digest, decision.verdict


def _verdict(digest: str, workspace: Workspace) -> str:
    try:
        return _read_decision(digest, workspace).verdict
    except ValueError as error:
        log.warning("Decision %s cannot be read: %s", digest, error)
        return UNREADABLE


def note_asked(decision: GateDecision, by: str, workspace: Workspace) -> None:
    """Record who requested a decision; empty for a schedule or an asset. The first record is kept."""
    store = workspace.store
    line = {"by": by, "at": datetime.now(UTC).isoformat()}
    store.create_bytes(_asked_uri(store, workspace.project, decision.digest), json.dumps(line).encode())


def asked_by(decision: GateDecision, workspace: Workspace) -> str | None:
    """Return who requested a decision: empty for a schedule or an asset, None if there is no record."""
    store = workspace.store
    uri = _asked_uri(store, workspace.project, decision.digest)
    return str(json.loads(store.read_bytes(uri))["by"]) if store.exists(uri) else None


def _folder(project: Project) -> tuple[str, str, str]:
    return ("evaluations", "decisions", project.name)


def _asked_uri(store: Store, project: Project, digest: str) -> str:
    return store.uri(*_folder(project), "asked", f"{digest}.json")


def _order(store: Store, project: Project) -> Series[dict[str, Any]]:
    return series_of_json(store, *_folder(project), "order")


def _judged_by(line: dict[str, Any], store: Store, project: Project) -> tuple[int, str] | None:
    """Return the version and weights digest of a line. Lines of release 0.1.0 name only the decision, so it is read."""
    if "version" in line:
        return int(line["version"]), str(line["weights_digest"])
    decision = store.uri(*_folder(project), f"{line['decision_digest']}.json")
    try:
        candidate = json.loads(store.read_bytes(decision))["candidate"] if store.exists(decision) else {}
        return int(candidate["version"]), str(candidate["weights_digest"])
    except (json.JSONDecodeError, KeyError, TypeError):
        log.warning("Decision %s is missing or unreadable and is ignored.", decision)
        return None


def load_decision(path: Path, settings: Settings) -> GateDecision:
    """Read a decision from its JSON file, or the last decision of a project file."""
    if path.suffix == ".toml":
        found = last_decision(Workspace(load_project(path), settings))
        if found is None:
            raise ValueError(f"{path.stem} has no decision yet. Run `plumbline gate {path}`.")
        return found
    try:
        return GateDecision.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. Give the JSON file of a decision, or a project file."
        ) from error
    except ValidationError as error:
        raise ValueError(
            f"{path} holds no gate decision: {error.error_count()} fields are missing or invalid. Give the JSON file of"
            " a decision, or a project file."
        ) from error
