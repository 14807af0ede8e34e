"""Stages of the release up to the verdict: register and judge candidates. Plain JSON in, plain JSON out.

Both a subcommand and a DAG task call them. stages/champion.py has the stages after the verdict.
"""

import logging
from collections.abc import Sequence

from alignment.contracts.coverage import CoverageReport
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.soup import SoupResult
from alignment.contracts.training import TrainResult
from pipelines.contracts.release import CandidateVersion
from pipelines.release.champion.versions import champion_of
from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.tracking.pipeline_run import pipeline_run
from pipelines.workspace import Workspace, open_workspace

log = logging.getLogger(__name__)

MAXIMUM_RUNS_PER_EVENT = 100
"""Largest number of runs of NAME.promote for one event. Further versions wait for the next event."""


def register(path: str, snapshot: Json, result: Json, *, run_key: str, trained_by: str = "") -> Json:
    """Register trained weights as a CandidateVersion with the alias `candidate`.

    `trained_by` is the person who started the training, if any. They may not approve the candidate.
    """
    from pipelines.release.champion import versions
    from pipelines.release.registration import candidates

    workspace = open_workspace(path)
    data, trained = DatasetSnapshot.model_validate(snapshot), TrainResult.model_validate(result)
    with pipeline_run(workspace.project, workspace.settings, run_key, [data]) as run_id:
        candidate = candidates.register(
            trained, workspace, snapshot=data, run_id=run_id, more_tags=versions.trainer_tags(trained_by)
        )
    return to_json(candidate)


def register_soup(
    path: str, trainings: Sequence[Json], results: Sequence[Json], *, soup: Json, run_key: str, trained_by: str = ""
) -> Json:
    """Register an average of runs as a CandidateVersion with the alias `candidate`. The runs are not registered."""
    from pipelines.release.champion import versions
    from pipelines.release.registration import candidates

    workspace = open_workspace(path)
    snapshots = [DatasetSnapshot.model_validate(training["snapshot"]) for training in trainings]
    runs = [TrainResult.model_validate(result) for result in results[:]]
    with pipeline_run(workspace.project, workspace.settings, run_key, snapshots) as run_id:
        candidate = candidates.register_soup(
            SoupResult.model_validate(soup),
            tuple(zip(runs, snapshots, strict=True)),
            workspace,
            run_id=run_id,
            more_tags=versions.trainer_tags(trained_by),
        )
    return to_json(candidate)


def versions_to_judge(
    path: str, *, version: int = 0, generation: int = 0, tried: Sequence[int] = (), by_event: bool = False
) -> list[int]:
    """List the versions to judge: this run of NAME.promote judges the first, and the runs after it judge the others.

    If `version` is set, the list has only this one. A run that an asset event started (`by_event`) judges every version
    without a decision, newest first, whatever version the event names: Airflow may drop events (apache/airflow #56050).
    A run that follows it leaves out the versions that the runs before it `tried`. A person started any other run: it
    judges the alias `candidate`, even if it has a decision, and then the versions without one. With `generation` it
    judges only the candidate. While the gate is off an event judges nothing. ValueError when a person starts a run and
    there is no candidate, or the gate is off.
    """
    if read_project(path).gate.mode == "off":
        if by_event or tried:
            log.info("The gate of %s is off: nothing is judged. A person promotes with --by-hand.", path)
            return []
        check_gate_on(path)
    if version:
        return [version]
    if not by_event and not tried:
        candidate = int(pick_candidate(path)["version"])
        return [candidate] if generation else [candidate, *_undecided(path, tried=[candidate])]
    return _undecided(path, tried=tried)


def check_gate_on(path: str) -> None:
    """Raise ValueError while the gate is off: no evaluation is spent on a verdict without a meaning."""
    if read_project(path).gate.mode == "off":
        raise ValueError(
            f'[gate] of {path} has mode = "off", so nothing is judged. `plumbline promote {path} --by-hand --reason'
            ' TEXT` promotes a version without the gate; mode = "dry_run" gives verdicts without consequence.'
        )


def _undecided(path: str, *, tried: Sequence[int]) -> list[int]:
    """List the versions without a decision that this series of runs has not tried, up to the runs that it has left."""
    from pipelines.release import awaiting

    waiting = [
        own for own in awaiting.awaiting_judgement(Workspace(read_project(path), load_settings())) if own not in tried
    ]
    most = max(0, MAXIMUM_RUNS_PER_EVENT - len(tried))
    if waiting[most:]:
        later = ", ".join(map(str, waiting[most:]))
        log.warning("One event starts at most %d runs; versions %s wait for the next.", MAXIMUM_RUNS_PER_EVENT, later)
    return waiting[:most]


def pick_candidate(path: str, version: int | None = None) -> Json:
    """Return the CandidateVersion to judge: `version`, else the version of the alias `candidate`."""
    from pipelines.release.champion import versions
    from pipelines.tracking import registry

    workspace = open_workspace(path)
    project = workspace.project
    found = versions.read_version(workspace, version or "candidate")
    if found is None:
        there = ", ".join(map(str, registry.list_versions(workspace.settings, project.name)))
        lacks = f"version {version}" if version else "candidate (alias `candidate` is not set)"
        hint = f"Name one of its versions: {there}." if there else "Train one first."
        raise ValueError(f"Model {project.name!r} has no {lacks}. {hint}")
    return to_json(found)


def is_challenger(path: str, candidate: Json) -> bool:
    """Return True if the candidate's weights differ from the champion's. Equal weights need no judgement."""
    champion = champion_of(Workspace(read_project(path), load_settings()))
    return champion is None or champion.weights_digest != candidate["weights_digest"]


def gate(
    path: str, candidate: Json, report: Json, *, run_key: str, coverage: Json | None = None, asked_by: str = ""
) -> Json:
    """Return the GateDecision on an evaluation. Its evidence is in the store and is logged to MLflow.

    `coverage` is a CoverageReport for people; it does not affect the verdict. `asked_by` is the person who requested
    the decision, if any. They may not approve it.
    """
    from pipelines.release import judge_candidate
    from pipelines.release.gate import decision_log

    workspace = open_workspace(path)
    judged = CandidateVersion.model_validate(candidate)
    measured = EvalReport.model_validate(report)
    champion = champion_of(workspace)
    repeated = CoverageReport.model_validate(coverage) if coverage else None
    decision = judge_candidate.judge(workspace, candidate=judged, champion=champion, report=measured, coverage=repeated)
    decision_log.note_asked(decision, asked_by, workspace)
    judge_candidate.show_in_tracking(workspace, decision, report=measured, run_key=run_key, coverage=repeated)
    return to_json(decision)


def compare(path: str, first: str, second: str, *, run_key: str) -> Json:
    """Return a VersionComparison of two models: numbers, aliases or MLflow runs of versions; the second may be `base`.

    Images that earlier evaluations drew are used again. ValueError for a name that is no version.
    """
    from pipelines.dispatch import jobs
    from pipelines.dispatch.job_kinds import Evaluate
    from pipelines.dispatch.requests import judging
    from pipelines.release.champion import versions
    from pipelines.release.compare_versions import compare_versions

    workspace = open_workspace(path)
    one = versions.find_version(workspace, first)
    if one is None:
        raise ValueError("The first model is the base. Name a version first; the second may be `base`.")
    other = versions.find_version(workspace, second)
    request = judging.comparison_request(workspace, Evaluate(candidate=one, champion=other))
    report = EvalReport.model_validate(jobs.run_to_end(request, workspace.settings, parent_key=run_key))
    return to_json(compare_versions(workspace, one, other, report))


def aa(path: str, *, run_key: str) -> Json:
    """Evaluate the champion, or the base model, against itself on other seeds; return an existing EvalReport if any."""
    from pipelines.dispatch import jobs
    from pipelines.dispatch.requests import judging
    from pipelines.release.champion import versions
    from pipelines.stages import pairs

    workspace = open_workspace(path)
    champion = champion_of(workspace)
    known = champion or versions.read_version(workspace, "candidate")
    if known is not None and known.snapshot_uri:
        uri, digest = known.snapshot_uri, known.snapshot_digest
    else:
        data = DatasetSnapshot.model_validate(pairs.snapshot(path))
        uri, digest = data.uri, data.content_digest
    request = judging.aa_request(workspace, champion=champion, snapshot_uri=uri, snapshot_digest=digest)
    return jobs.run_to_end(request, workspace.settings, parent_key=run_key)
