"""The tables about approvers and recipients are checked when the project is read."""

import pytest
from pydantic import ValidationError

from pipelines.project.approval import ApprovalSection, Approver, NotifySection


def test_by_default_the_gate_alone_decides_and_nothing_is_reported() -> None:
    assert ApprovalSection().mode == "none"
    assert not NotifySection().wants("promoted")


def test_an_approver_is_a_name_or_an_id_with_a_name() -> None:
    ada, bob = ApprovalSection(mode="required", approvers=("ada", {"id": "7", "name": "bob"})).approvers  # type: ignore[arg-type]
    assert (ada, bob) == (Approver(id="ada"), Approver(id="7", name="bob"))
    assert ada.is_called("Ada")
    assert bob.is_called("BOB")
    assert bob.is_called("7")
    assert not ada.is_called("")
    assert not ada.is_called("bob")


@pytest.mark.parametrize("name", ["bob", "Bob ", " bob", "B\uff4fb", "bob@example.org", "rob", "Robert  Ross"])
def test_one_person_has_one_name_however_it_is_written(name: str) -> None:
    bob = Approver(id="7", name="bob", aliases=("rob", "robert ross"))
    assert bob.may_be(name)
    assert bob.is_called(name) is ("@" not in name)


@pytest.mark.parametrize("name", ["", " ", "bobby", "ada@bob", "8"])
def test_other_names_are_other_people(name: str) -> None:
    assert not Approver(id="7", name="bob").may_be(name)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mode": "required"}, "needs approvers; without them, everyone who may edit the DAG could approve"),
        ({"mode": "borderline", "approvers": ["ada"], "borderline": {}}, "needs one or more checks"),
        ({"approvers": [""]}, "at least 1 character"),
        ({"timeout_hours": 0}, "greater than 0"),
        ({"borderline": {"win_rate": -0.1}}, "greater than or equal to 0"),
    ],
)
def test_an_approval_that_anyone_could_give_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ApprovalSection.model_validate(fields)


def test_listed_events_are_reported_if_there_is_a_channel() -> None:
    notify = NotifySection.model_validate({"on": ["alarm"], "webhook": {"connection": "chat"}})
    assert notify.wants("alarm")
    assert not notify.wants("promoted")
    assert not NotifySection.model_validate({"on": ["alarm"]}).wants("alarm")
    with pytest.raises(ValidationError, match="promted"):
        NotifySection.model_validate({"on": ["promted"]})
