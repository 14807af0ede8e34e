"""`plumbline doctor`: checks of an installation and a project, each fault with a way to fix it. Torch-free."""

from pipelines.platform.checks.airflow import airflow_checks
from pipelines.platform.checks.data import data_checks
from pipelines.platform.checks.hardware import hardware_checks
from pipelines.platform.checks.installation import installation_checks
from pipelines.platform.checks.release import JudgeStates, release_checks
from pipelines.platform.checks.result import Check
from pipelines.project.file import Project
from pipelines.settings import Settings
from pipelines.workspace import Workspace

__all__ = ["Check", "diagnose"]


def diagnose(project: Project | None, settings: Settings, judge_states: JudgeStates | None = None) -> list[Check]:
    """Make every check, those on a project only if there is one. Faults are returned, not raised.

    `judge_states` returns the right to vote of each judge; without it that is not checked.
    """
    found = [*installation_checks(settings), *hardware_checks(project, settings)]
    if project is None:
        return found
    return [
        *found,
        *data_checks(project, settings),
        *release_checks(project, settings, judge_states),
        *airflow_checks(Workspace(project, settings)),
    ]
