"""Value objects of what is watched over time: judges' calibrations, and the champion. Frozen, plain JSON."""

from typing import Literal

from pydantic import AwareDatetime

from alignment.contracts.values import Record, Sha256, ValueObject

FindingStatus = Literal["ok", "retrain", "alarm", "unmeasured"]


class MonitorFinding(Record):
    """One question that the monitor asked."""

    name: str
    measured: float | None
    limit: str
    """Readable bound, e.g. `< 0.2`."""
    status: FindingStatus
    explanation: str


class MonitorReport(ValueObject):
    """How the champion stands against what came in since it was trained."""

    project: str
    at: AwareDatetime
    champion_version: int | None
    """None where the base model itself is served."""
    snapshot_digest: Sha256 | None
    """What the champion was trained on."""
    num_fresh_pairs: int
    """Accepted pairs of batches that it was not trained on."""
    findings: tuple[MonitorFinding, ...]
    outcome: Literal["ok", "retrain", "alarm"]
    """The gravest of the findings."""
    retrain: Literal["not_needed", "advised", "due", "held_back"]
    """advised: wanted, but the monitor was only asked to look; due: its run announces it next; held_back: wanted, but
    the last one is too recent."""
    uri: str = ""
    """Where this report is kept."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """What a person has to look at."""
        return self._explanations("alarm")

    @property
    def reasons_to_retrain(self) -> tuple[str, ...]:
        """What a new candidate is wanted for."""
        return self._explanations("retrain")

    def _explanations(self, status: FindingStatus) -> tuple[str, ...]:
        return tuple(finding.explanation for finding in self.findings if finding.status == status)


class RetrainEntry(ValueObject):
    """A retraining that the monitor announced; the newest one limits the rate."""

    at: AwareDatetime
    key: str
    """The run that announced it, so that its retry is no second one."""
    reasons: tuple[str, ...]
