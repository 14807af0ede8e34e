"""The tables [approval], [reconcile] and [notify] of a project: who is asked, what is watched, who is told.

None of them holds a secret: connections are named by their id in Airflow. docs/operations.md explains their use.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from alignment.contracts.values import NotNegative, Record

Event = Literal["promoted", "held", "rejected", "asked", "rolled_back", "rolled_forward", "restored", "alarm", "failed"]
"""What people may want to hear of. `held`: the gate said no; `rejected`: a person did, or nobody answered in time;
`asked`: somebody has to answer; `rolled_forward`: a version that a rollback had left is back; `restored`: reconcile put
the alias back; `failed`: a task gave up."""


class Approver(Record):
    """A person who may approve, as Airflow's auth manager knows them."""

    id: Annotated[str, Field(min_length=1)]
    """Id of the user in the auth manager: the user name, or a number (as text) with FAB."""
    name: str = ""
    """The user name, where it is not the id."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"id": data} if isinstance(data, str) else data

    def is_called(self, name: str) -> bool:
        """Whether this is the person of that id or user name, whatever the case of its letters."""
        return name.casefold() in {self.id.casefold(), self.name.casefold()} - {""}


class ApprovalSection(Record):
    """Approval of a promotion by a person. The person who started the training or the promotion may not approve it."""

    mode: Literal["none", "required", "borderline"] = "none"
    """none: the gate alone decides; required: a person is always asked; borderline: only when it was close, or the gate
    warned."""
    approvers: tuple[Approver, ...] = ()
    """People who may answer, as user names or { id, name }."""
    timeout_hours: Annotated[FiniteFloat, Field(gt=0, le=87_600)] = 72.0
    """Without an answer by then nothing moves; ten years at most."""
    borderline: dict[str, NotNegative] = Field(default_factory=lambda: {"win_rate": 0.02})
    """A check (`guard:safety`), or a kind of checks (`win_rate`), to how close to its bound a measured value counts as
    close, in the check's own units. A check that has no number, or is not there, counts as close too."""

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if self.mode != "none" and not self.approvers:
            raise ValueError(f"mode {self.mode!r} needs approvers, else anyone who may edit the DAG could approve")
        if self.mode == "borderline" and not self.borderline:
            raise ValueError("mode 'borderline' needs at least one check under borderline, e.g. win_rate = 0.02")
        return self


class ReconcileSection(Record):
    """Reaction when alias, ledger and tags differ."""

    on_mismatch: Literal["alarm", "restore"] = "alarm"
    """alarm: the task fails with a message; restore: an alias moved by hand is put back, with a note in the ledger."""


class MailSection(Record):
    """Mail through a connection of Airflow."""

    connection: str = "smtp_default"
    """Id of the SMTP connection in Airflow."""
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    """Addresses of the recipients."""
    sender: str | None = None
    """None: that of the connection."""


class WebhookSection(Record):
    """A JSON message posted through a connection of Airflow, which holds address and token."""

    connection: str
    """Id of the HTTP connection in Airflow."""
    endpoint: str = ""
    """Path that is appended to the address of the connection."""


class NotifySection(Record):
    """Notifications: recipients and events."""

    on: tuple[Event, ...] = (
        "promoted", "rejected", "asked", "rolled_back", "rolled_forward", "restored", "alarm", "failed",
    )  # fmt: skip
    """Events that are reported."""
    mail: MailSection | None = None
    """Mail; without the table there is none."""
    webhook: WebhookSection | None = None
    """Webhook; without the table there is none."""

    def wants(self, event: str) -> bool:
        """Whether anybody is to be told of this."""
        return event in self.on and (self.mail is not None or self.webhook is not None)
