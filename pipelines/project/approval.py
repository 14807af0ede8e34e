"""The tables [approval], [reconcile] and [notify] of a project: approvers, mismatches, and notifications.

They contain no secrets: a connection is given by its id in Airflow. docs/operations.md explains their use.
"""

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from alignment.contracts.values import NotNegative, Record

Event = Literal["promoted", "held", "rejected", "asked", "rolled_back", "rolled_forward", "restored", "alarm", "failed"]
"""Events that can be reported. `held`: the gate refused the candidate; `rejected`: an approver refused it or did not
answer in time; `asked`: an approval is needed; `rolled_forward`: a version that a rollback left is the champion again;
`restored`: reconcile put the alias back; `failed`: a task failed after its retries."""


class Approver(Record):
    """A user of Airflow's auth manager who may approve."""

    id: Annotated[str, Field(min_length=1)]
    """Id of the user in the auth manager: the user name, or a number (as text) with FAB."""
    name: str = ""
    """User name, if it differs from the id."""
    aliases: tuple[str, ...] = ()
    """Other names of this person: at the shell of the training host, a mail address."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"id": data} if isinstance(data, str) else data

    def is_called(self, name: str) -> bool:
        """Return True if `name` is this person's id, user name or an alias, as `same_name` compares them."""
        return any(same_name(name, own) for own in (self.id, self.name, *self.aliases))

    def may_be(self, name: str) -> bool:
        """Return True if `name` may be this person: their name, or their name at some host or mail server.

        It decides who may *not* approve, where a wrong match costs a second approver and a missed one the four eyes.
        """
        return self.is_called(name) or self.is_called(name.partition("@")[0])


def same_name(first: str, second: str) -> bool:
    """Return True if two names differ in case, width of letters or white space only; an empty one is nobody's."""
    return bool(_plain(first)) and _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


class ApprovalSection(Record):
    """Approval of a promotion by a person. The person who started the training or the promotion may not approve it."""

    mode: Literal["none", "required", "borderline"] = "none"
    """none: the gate alone decides; required: every promotion needs an approval; borderline: only a promotion with a
    close result or a warning of the gate needs one."""
    approvers: tuple[Approver, ...] = ()
    """People who may approve, as user names or { id, name }."""
    timeout_hours: Annotated[FiniteFloat, Field(gt=0, le=87_600)] = 72.0
    """Hours to wait for an answer, at most ten years. Without an answer the champion stays."""
    borderline: dict[str, NotNegative] = Field(default_factory=lambda: {"win_rate": 0.02})
    """Largest distance of a measured value from its bound that counts as close, in the check's units. The key is a
    check (`guard:safety`) or a kind of check (`win_rate`). A check that is missing or has no number counts as close."""

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if self.mode != "none" and not self.approvers:
            raise ValueError(
                f"mode {self.mode!r} needs approvers; without them, everyone who may edit the DAG could approve."
                ' Add them, e.g. approvers = ["ada"]'
            )
        if self.mode == "borderline" and not self.borderline:
            raise ValueError("mode 'borderline' needs one or more checks under borderline, e.g. win_rate = 0.02")
        return self


class ReconcileSection(Record):
    """Reaction to a difference between alias, ledger and tags."""

    on_mismatch: Literal["alarm", "restore"] = "alarm"
    """alarm: the task fails with a message; restore: an alias that was moved by hand is put back, which the ledger
    records."""
    unjudged_hours: Annotated[FiniteFloat, Field(ge=0)] = 48.0
    """Hours after which a version that the gate has not judged is an alarm; 0: never. Its event was lost, or
    NAME.promote is paused or fails."""
    full_check_hours: Annotated[FiniteFloat, Field(ge=0)] = 24.0
    """Hours between two complete checks of the files that MLflow serves for the champion. In between only their sizes
    are compared."""


class MailSection(Record):
    """Mail through a connection of Airflow."""

    connection: str = "smtp_default"
    """Id of the SMTP connection in Airflow."""
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    """Addresses of the recipients."""
    sender: str | None = None
    """Address of the sender; none: the sender of the connection."""


class WebhookSection(Record):
    """A JSON message that is posted through a connection of Airflow. The connection holds address and token."""

    connection: str
    """Id of the HTTP connection in Airflow."""
    endpoint: str = ""
    """Path that is appended to the address of the connection."""
    format: Literal["plain", "slack", "teams"] = "plain"
    """Form of the message: a flat JSON object, or what Slack's incoming webhooks or Teams' workflows take."""


class NotifySection(Record):
    """Notifications: recipients and events."""

    on: tuple[Event, ...] = (
        "promoted", "rejected", "asked", "rolled_back", "rolled_forward", "restored", "alarm", "failed",
    )  # fmt: skip
    """Events that are reported."""
    mail: MailSection | None = None
    """Mail; without this table no mail is sent."""
    webhook: WebhookSection | None = None
    """Webhook; without this table nothing is posted."""

    def wants(self, event: str) -> bool:
        """Return True if this event is to be reported to anyone."""
        return event in self.on and (self.mail is not None or self.webhook is not None)
