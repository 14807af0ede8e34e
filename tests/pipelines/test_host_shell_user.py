"""The operating system names the user; the environment is ignored."""

import getpass
import os
import pwd

import pytest

from pipelines.host import shell_user


def test_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody_else")
    assert getpass.getuser() == "somebody_else"
    assert shell_user() == pwd.getpwuid(os.getuid()).pw_name != "somebody_else"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_017)
    assert shell_user() == "2000000017"
