"""Summarise a finished demo."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines.intake.quarantine import list_shards
from pipelines.release.gate import decision_log
from pipelines.store.storage import Store
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """Result of one pass through the loop."""

    pairs: dict[str, int]
    newly_trained: int
    judged: bool
    """False when the gate did not judge, because the candidate is the champion or too little data was new."""
    status: dict[str, Any]
    new_ledger_entries: int

    @property
    def is_champion(self) -> bool:
        """Return True when the candidate is the champion now."""
        champion, candidate = self.status["champion"], self.status["candidate"]
        return champion is not None and candidate is not None and champion["version"] == candidate["version"]


def summarise(outcome: Outcome, workspace: Workspace, *, seconds: float) -> str:
    """Return the summary as text, one fact per line."""
    pairs = outcome.pairs
    lines = [
        "",
        f"pairs      {pairs['pairs_in']} in, {pairs['accepted']} accepted, {pairs['quarantined']} quarantined,"
        f" {pairs['duplicates']} duplicates",
        *_data_lines(outcome, workspace),
        *_training_lines(outcome, workspace.store),
        *_decision_lines(outcome, workspace),
        *_champion_lines(outcome),
        f"time       {seconds:.0f} s without installation",
        *_next_lines(workspace.project.name),
    ]
    return "\n".join(lines)


def _data_lines(outcome: Outcome, workspace: Workspace) -> list[str]:
    """Return the broken rules of the rows set aside, and the address of the data report."""
    reasons = Counter[str]()
    for shard in list_shards(workspace):
        reasons.update(shard.reasons)
    lines = [f"           {number} {rule.replace('_', ' ')}" for rule, number in reasons.most_common()]
    report = outcome.status.get("data_report")
    return [*lines, *([f"data       {report['report_uri']}"] if report else [])]


def _next_lines(name: str) -> list[str]:
    """Return what to do next: look at it, ask about the decision, and bring a model of your own."""
    return [
        "next       make up   (Airflow and MLflow in the browser; it prints their addresses and the password)",
        f"           plumbline gate explain projects/{name}.toml   (the decision in sentences)",
        "           plumbline new NAME --base FOLDER --pairs FOLDER   (a project file for your own model)",
    ]


def _training_lines(outcome: Outcome, store: Store) -> list[str]:
    if outcome.newly_trained == 0:
        return ["training   nothing new: the trained weights were found by digest"]
    lines = []
    for uri in store.list_uris(store.uri("models")):
        if uri.endswith("/manifest.json"):
            result = json.loads(store.read_bytes(uri))["value"]
            figures = ", ".join(f"{k} {v:.4g}" for k, v in sorted(result["final_metrics"].items()))
            trained = f"{result['steps']} steps on {result['num_pairs']} training pairs with a preference"
            lines.append(f"training   {trained}; at the end {figures}")
    return lines


def _decision_lines(outcome: Outcome, workspace: Workspace) -> list[str]:
    decision = decision_log.last_decision(workspace)
    if decision is None:
        return ["verdict    none"]
    note = "" if outcome.judged else " (made earlier; nothing new to judge)"
    lines = [f"verdict    {decision.verdict} for version {decision.candidate.version}{note}"]
    for check in decision.checks:
        mark = "ok  " if check.passed else ("FAIL" if check.decisive else "note")
        measured = "-" if check.measured is None else f"{check.measured:.4g}"
        lines.append(f"           {mark} {check.name}: {measured}, required {check.required}")
    return [*lines, f"report     {decision.report_uri}"]


def _champion_lines(outcome: Outcome) -> list[str]:
    champion, previous = outcome.status["champion"], outcome.status["previous_champion"]
    if champion is None:
        return ["champion   none: serve the base model"]
    moved = "promoted now" if outcome.new_ledger_entries else "nothing new promoted"
    before = f", before it version {previous['version']}" if previous else ""
    return [f"champion   version {champion['version']}{before} ({moved}), weights {champion['weights_digest'][:12]}"]
