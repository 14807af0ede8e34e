"""Decisions of the gate: their number by verdict, and the verdict of the newest."""

from collections import Counter
from typing import get_args

from pipelines.contracts.release import GateDecision
from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.release.gate.decision_log import UNREADABLE, verdicts_after

_VERDICTS = (*get_args(GateDecision.model_fields["verdict"].annotation), UNREADABLE)

_DECISIONS = Metric("plumbline_gate_decisions_total", "Decisions of the gate.", ("project", "verdict"))
_LAST = Metric("plumbline_gate_last_verdict", "1 for the verdict of the newest decision.", ("project", "verdict"))
_LAST_TIME = Metric("plumbline_gate_last_decision_timestamp_seconds", "Time of the newest decision.", ("project",))
METRICS = (_DECISIONS, _LAST, _LAST_TIME)


def read(reading: Reading) -> list[Sample]:
    """Count the decisions of a project. Only decisions since the last reading are read."""
    workspace, memory = reading.workspace, reading.memory
    name = workspace.project.name
    counts: Counter[str] = memory.setdefault("counts", Counter())
    for number, at, verdict in verdicts_after(memory.get("number", 0), workspace):
        counts[verdict] += 1
        memory |= {"number": number, "at": at, "verdict": verdict}
    samples = [_DECISIONS.of(counts[verdict], name, verdict) for verdict in _VERDICTS]
    if "verdict" in memory:
        samples += [_LAST.of(verdict == memory["verdict"], name, verdict) for verdict in _VERDICTS]
    if memory.get("at"):
        samples.append(_LAST_TIME.of(memory["at"].timestamp(), name))
    return samples
