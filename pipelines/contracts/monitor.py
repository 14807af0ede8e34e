"""Value objects of the monitor: findings, reports and announced retrainings. Frozen, plain JSON."""

from typing import Literal

from pydantic import AwareDatetime

from alignment.contracts.values import Record, Sha256, ValueObject

FindingStatus = Literal["ok", "retrain", "alarm", "unmeasured"]


class MonitorFinding(Record):
    """Result of one check of the monitor."""

    name: str
    measured: float | None
    limit: str
    """Readable bound, e.g. `< 0.2`."""
    status: FindingStatus
    explanation: str


class MonitorReport(ValueObject):
    """Comparison of the champion with the pairs that arrived since it was trained."""

    project: str
    at: AwareDatetime
    champion_version: int | None
    """None if the base model is the champion."""
    snapshot_digest: Sha256 | None
    """Snapshot that the champion was trained on."""
    num_fresh_pairs: int
    """Number of accepted pairs in batches that the champion was not trained on."""
    findings: tuple[MonitorFinding, ...]
    outcome: Literal["ok", "retrain", "alarm"]
    """Most severe status of the findings."""
    retrain: Literal["not_needed", "advised", "due", "held_back"]
    """advised: needed, but this run does not announce retrainings; due: this run announces it next; held_back: needed,
    but the last retraining is too recent."""
    uri: str = ""
    """URI of this report in the store."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """Explanations of the findings that need a person's attention."""
        return self._explanations("alarm")

    @property
    def reasons_to_retrain(self) -> tuple[str, ...]:
        """Explanations of the findings that call for a new candidate."""
        return self._explanations("retrain")

    def _explanations(self, status: FindingStatus) -> tuple[str, ...]:
        return tuple(finding.explanation for finding in self.findings if finding.status == status)


class RetrainEntry(ValueObject):
    """A retraining that the monitor announced. The time of the newest one limits the rate."""

    at: AwareDatetime
    key: str
    """Key of the run that announced it, so that a retry of this run does not count as a second retraining."""
    reasons: tuple[str, ...]
