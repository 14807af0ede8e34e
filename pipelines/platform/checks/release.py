"""Checks of the gate, the judges, the champion and the runs of a project."""

from collections.abc import Callable, Sequence

from pipelines.contracts.judges import JudgeState
from pipelines.dispatch import sweeper
from pipelines.dispatch.model_folders import is_here
from pipelines.platform import dag_states
from pipelines.platform.checks.result import WARNING, Check, check
from pipelines.project.file import Project
from pipelines.records.heldout_prompts import check_enough_prompts
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.release.promotion.reconcile import files_gone
from pipelines.settings import Settings
from pipelines.workspace import Workspace

MOST_NAMED_RUNS = 5
JudgeStates = Callable[[Workspace], Sequence[JudgeState]]
"""Returns the right to vote of each judge of a project: `pipelines.monitor.judges.judge_states`."""


def release_checks(project: Project, settings: Settings, judge_states: JudgeStates | None) -> list[Check]:
    """Check gate, judges, champion and runs. Without `judge_states` the judges are not checked."""
    workspace = Workspace(project, settings)
    judges_fix = f"Run `plumbline calibrate {project.name}`, or change the judges or `[gate]`; see docs/judges.md."
    found = [check("gate", lambda: _gate(workspace), "Correct `[evaluation] prompts` or `[gate]`; see docs/gate.md.")]
    if judge_states is not None:
        found.append(check("judges", lambda: _judges(workspace, judge_states), judges_fix))
    return [
        *found,
        check("champion", lambda: _champion(workspace), "Follow these instructions before the next promotion."),
        check(
            "runs",
            lambda: _runs(project, settings),
            "Close them with `plumbline reconcile`; the DAG NAME.reconcile does it every hour.",
        ),
    ]


def _gate(workspace: Workspace) -> str:
    """Summarise the gate's evidence, with warnings. Contradictory rules were already refused with the project file."""
    project = workspace.project
    policy = project.gate
    if policy.mode == "off":
        return "mode is off: nothing is judged; a person promotes with `plumbline promote --by-hand --reason TEXT`"
    num_prompts = check_enough_prompts(workspace.project, workspace.store)
    found = [f"{num_prompts} prompts, {policy.voting_judges} of {len(project.evaluation.judges)} judges must vote"]
    if not policy.guards:
        found.append(
            f"{WARNING} no guard, so a loss of prompt fidelity, diversity or safety is not detected; add"
            " [[evaluation.guards]] with rules under [gate.guards]"
        )
    if not policy.calibration_generators:
        found.append(
            f"{WARNING} judges are checked on pairs of any generator; list the generators similar to this model in"
            " gate.calibration_generators"
        )
    return "; ".join(found)


def _judges(workspace: Workspace, judge_states: JudgeStates) -> str:
    """Count the judges that may vote; ValueError when too few may, with the reasons.

    A judge whose agreement with people was not measured yet counts as one that may: the next evaluation measures it.
    """
    project = workspace.project
    if project.gate.mode == "off":
        return "mode is off: no judge votes"
    away = [own.name for own in project.evaluation.judges if not _is_here(own.uri, workspace.settings)]
    if away:
        return f"not known: {', '.join(away)} would be fetched first; `plumbline judges {project.name}` does it"
    states = judge_states(workspace)
    refused = [own for own in states if not own.may_vote and not own.unmeasured]
    reasons = "; ".join(f"{own.judge} {' and '.join(own.reasons)}" for own in refused).rstrip(".")
    if len(states) - len(refused) < project.gate.voting_judges:
        raise ValueError(
            f"{project.gate.voting_judges} judges must be allowed to vote, and {len(states) - len(refused)} of"
            f" {len(states)} can be: {reasons}."
        )
    waiting = [own.judge for own in states if own.unmeasured]
    found = [f"{sum(own.may_vote for own in states)} of {len(states)} may vote"]
    found += [f"{', '.join(waiting)} not compared with people yet, which the next evaluation does"] if waiting else []
    return "; ".join([*found, *([f"{WARNING} {reasons}"] if refused else [])])


def _is_here(uri: str, settings: Settings) -> bool:
    """Return True unless a judge's weights are a remote folder that was never fetched. A local one may be missing."""
    return not uri.startswith(("s3://", "hub://")) or is_here(uri, settings)


def _champion(workspace: Workspace) -> str:
    """Compare alias, ledger and files; ValueError when they do not agree."""
    standing = read_state(workspace.project.name, workspace.settings)
    problems = [standing.problem] if standing.problem else files_gone(workspace, standing)
    if problems:
        raise ValueError(" ".join(problems))
    version = "none yet, the base model is used" if standing.champion is None else f"version {standing.champion}"
    ungated = ledger.ungated(standing.entries, standing.champion)
    note = f"; {WARNING} it is ungated, {ungated}" if ungated else ""
    return f"{version}; {len(standing.entries)} ledger entries agree{note}"


def _runs(project: Project, settings: Settings) -> str:
    """Find MLflow runs that a crash left open; ValueError names them."""
    lost = sweeper.find_lost_runs(project.name, settings, dag_states.dag_run_state(settings))
    if lost:
        named = "; ".join(f"{own.run.name}: {own.reason}" for own in lost[:MOST_NAMED_RUNS])
        raise ValueError(f"{len(lost)} MLflow runs are RUNNING although nothing runs. {named}")
    return "no MLflow run was left open by a crash"
