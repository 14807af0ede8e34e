"""The stages of the release: registered, calibrated, judged, watched. Plain JSON in, plain JSON out.

What a subcommand and a DAG task both call, as in stages.py; champion_stages.py has what follows a verdict.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from alignment.contracts.calibration import CalibrationReport
from alignment.contracts.coverage import CoverageReport
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.reward_models import RewardTrainResult
from alignment.contracts.soup import SoupResult
from alignment.contracts.training import TrainResult
from pipelines.contracts import CandidateVersion
from pipelines.project import Project
from pipelines.settings import Settings, load_settings
from pipelines.stages import Json, champion_of, read_project, to_json

log = logging.getLogger(__name__)

MAXIMUM_RUNS_PER_EVENT = 20
"""Runs of NAME.promote that follow one from another; versions beyond that wait for the next event."""


def register(path: str, snapshot: Json, result: Json, *, run_key: str, trained_by: str = "") -> Json:
    """Trained weights as a CandidateVersion, alias `candidate`.

    `trained_by` is the person who started the training, where one did: they may not approve what came of it.
    """
    from pipelines.release import registration

    project, settings = read_project(path), load_settings()
    data, trained = DatasetSnapshot.model_validate(snapshot), TrainResult.model_validate(result)
    with _pipeline_run(project, settings, run_key, [data]) as run_id:
        candidate = registration.register(
            trained, project, settings, snapshot=data, run_id=run_id, more_tags=registration.trainer_tags(trained_by)
        )
    return to_json(candidate)


def register_soup(
    path: str, trainings: Sequence[Json], results: Sequence[Json], *, soup: Json, run_key: str, trained_by: str = ""
) -> Json:
    """An average of runs as a CandidateVersion, alias `candidate`; the runs themselves are not registered."""
    from pipelines.release import registration

    project, settings = read_project(path), load_settings()
    snapshots = [DatasetSnapshot.model_validate(training["snapshot"]) for training in trainings]
    runs = [TrainResult.model_validate(result) for result in results[:]]
    with _pipeline_run(project, settings, run_key, snapshots) as run_id:
        candidate = registration.register_soup(
            SoupResult.model_validate(soup),
            tuple(zip(runs, snapshots, strict=True)),
            project,
            settings,
            run_id=run_id,
            more_tags=registration.trainer_tags(trained_by),
        )
    return to_json(candidate)


def register_reward(path: str, plan: Json, result: Json, *, run_key: str) -> Json:
    """A trained reward as a RegisteredJudge with its report, which MLflow shows too."""
    from pipelines.release import reward_registration

    project, settings = read_project(path), load_settings()
    data = DatasetSnapshot.model_validate(plan["snapshot"])
    trained = RewardTrainResult.model_validate(result)
    section = project.rewards[int(plan["reward"])]
    with _pipeline_run(project, settings, run_key, [data]) as run_id:
        judge = reward_registration.register(trained, section, project, settings, snapshot=data, run_id=run_id)
    return to_json(judge)


def record_calibration(path: str, report: Json, *, run_key: str) -> list[Json]:
    """A CalibrationReport kept as a record per judge, and shown in MLflow."""
    from pipelines import calibrations, tracking

    project, settings = read_project(path), load_settings()
    measured = CalibrationReport.model_validate(report)
    records = calibrations.record(measured, project.name, settings)
    with _pipeline_run(project, settings, run_key, []) as run_id:
        tracking.log_dict(settings, run_id, report, "calibration/report.json")
    return [to_json(record) for record in records]


def judges(path: str) -> list[Json]:
    """Which judges of the project may vote and why not, as JudgeStandings."""
    from pipelines import judge_standing

    return [to_json(own) for own in judge_standing.standings(read_project(path), load_settings())]


def versions_to_judge(
    path: str, *, version: int = 0, generation: int = 0, tried: Sequence[int] = (), by_event: bool = False
) -> list[int]:
    """List the versions that a run of NAME.promote judges: the first one itself, the others in the runs that follow.

    A given `version` is judged alone. A run that an asset event started (`by_event`) takes every version without a
    decision, newest first, whatever the event names: Airflow may drop events (apache/airflow #56050). A run that
    follows it takes what is left without those that the runs before it `tried`. Any other run was started by a person:
    it judges the alias `candidate` even if it has a decision, then the versions without one, unless `generation` was
    raised, which is about one version. ValueError when a person starts a run and there is no candidate.
    """
    if version:
        return [version]
    if not by_event and not tried:
        candidate = int(pick_candidate(path)["version"])
        return [candidate] if generation else [candidate, *_undecided(path, tried=[candidate])]
    return _undecided(path, tried=tried)


def _undecided(path: str, *, tried: Sequence[int]) -> list[int]:
    """List the versions without a decision that this series of runs has not tried, as many as it may still take."""
    from pipelines.release import awaiting

    waiting = [own for own in awaiting.awaiting_judgement(read_project(path), load_settings()) if own not in tried]
    most = max(0, MAXIMUM_RUNS_PER_EVENT - len(tried))
    if waiting[most:]:
        later = ", ".join(map(str, waiting[most:]))
        log.warning("One event starts at most %d runs; versions %s wait for the next.", MAXIMUM_RUNS_PER_EVENT, later)
    return waiting[:most]


def pick_candidate(path: str, version: int | None = None) -> Json:
    """The CandidateVersion to judge: a given version, or where alias `candidate` points."""
    from pipelines import registry
    from pipelines.release import registration

    project, settings = read_project(path), load_settings()
    found = registration.read_version(project, settings, version or "candidate")
    if found is None:
        there = ", ".join(map(str, registry.list_versions(settings, project.name)))
        lacks = f"version {version}" if version else "candidate (alias `candidate` is not set)"
        mend = f"Name one of its versions: {there}." if there else "Train one first."
        raise ValueError(f"Model {project.name!r} has no {lacks}. {mend}")
    return to_json(found)


def is_challenger(path: str, candidate: Json) -> bool:
    """Whether the candidate's weights are not the champion's already; if they are, there is nothing to judge."""
    champion = champion_of(read_project(path), load_settings())
    return champion is None or champion.weights_digest != candidate["weights_digest"]


def gate(
    path: str, candidate: Json, report: Json, *, run_key: str, coverage: Json | None = None, asked_by: str = ""
) -> Json:
    """The GateDecision on an evaluation, its evidence kept in the store and shown in MLflow.

    `coverage` is a CoverageReport for people to see; it does not vote. `asked_by` is the person who had it decided,
    where one did: they may not approve it.
    """
    from pipelines import judgement
    from pipelines.release import decisions

    project, settings = read_project(path), load_settings()
    judged = CandidateVersion.model_validate(candidate)
    measured = EvalReport.model_validate(report)
    champion = champion_of(project, settings)
    repeated = CoverageReport.model_validate(coverage) if coverage else None
    decision = judgement.judge(
        project, settings, candidate=judged, champion=champion, report=measured, coverage=repeated
    )
    decisions.note_asked(decision, asked_by, project, settings)
    judgement.show_in_tracking(project, settings, decision, report=measured, run_key=run_key)
    return to_json(decision)


def aa(path: str, *, run_key: str) -> Json:
    """The EvalReport of the champion (or base) against itself on other seeds; found if it exists."""
    from pipelines import stages
    from pipelines.dispatch import evaluation_requests, jobs
    from pipelines.release import registration

    project, settings = read_project(path), load_settings()
    champion = champion_of(project, settings)
    known = champion or registration.read_version(project, settings, "candidate")
    if known is not None and known.snapshot_uri:
        uri, digest = known.snapshot_uri, known.snapshot_digest
    else:
        data = DatasetSnapshot.model_validate(stages.snapshot(path))
        uri, digest = data.uri, data.content_digest
    request = evaluation_requests.aa_request(
        project, settings, champion=champion, snapshot_uri=uri, snapshot_digest=digest
    )
    return jobs.run_to_end(request, settings, parent_key=run_key)


def has_anything_to_monitor(path: str) -> bool:
    """Return False before the first pair was accepted and the first version promoted."""
    from pipelines import monitoring

    return monitoring.has_anything_to_monitor(read_project(path), load_settings())


def monitor(path: str, calibration: Json | None, *, run_key: str, announce: bool = False) -> Json:
    """The MonitorReport on the champion, kept in the store and shown in MLflow; `calibration` as in `gate`'s judges.

    With `announce` a wanted retraining is due, within the project's rate, and this run is to announce it.
    """
    from pipelines import monitoring, tracking

    project, settings = read_project(path), load_settings()
    try:
        champion = champion_of(project, settings)
    except ValueError:
        # The alias contradicts the ledger: one of the findings says so, and the champion is nobody's.
        champion = None
    report = monitoring.monitor(
        project,
        settings,
        champion=champion,
        calibration=CalibrationReport.model_validate(calibration) if calibration else None,
        announce_key=run_key if announce else "",
    )
    with _pipeline_run(project, settings, run_key, []) as run_id:
        tracking.log_dict(settings, run_id, to_json(report), "monitor/report.json")
        tracking.log_text(settings, run_id, monitoring.markdown(report), "monitor/report.md")
        tracking.set_run_tags(settings, run_id, {"monitor.outcome": report.outcome, "monitor.report_uri": report.uri})
    return to_json(report)


def claim_retraining(path: str, report: Json, *, run_key: str) -> bool:
    """Claim the retraining that a MonitorReport asks for, just before it is announced; False: somebody else did."""
    from pipelines import monitoring
    from pipelines.watch_contracts import MonitorReport

    reasons = MonitorReport.model_validate(report).reasons_to_retrain
    return monitoring.claim(read_project(path), load_settings(), reasons, key=run_key, now=datetime.now(UTC))


def training_wanted(path: str, snapshot: Json, *, run_key: str, asked: bool) -> bool:
    """Decide if a run of NAME.train goes on: the monitor asked for it, or there are enough new pairs.

    `asked` is True when the event of the asset `retrain` was delivered. The store is asked as well: Airflow queues no
    event for a paused DAG. A retraining is taken by one run; a retry of that run takes it again.
    """
    from pipelines import monitoring, stages

    announced = monitoring.take(read_project(path), load_settings(), key=run_key, now=datetime.now(UTC))
    return announced or asked or stages.enough_new_pairs(path, snapshot)


def raise_alarms(report: Json) -> None:
    """RuntimeError with everything of a MonitorReport that a person has to look at; nothing when there is nothing."""
    from pipelines.watch_contracts import MonitorReport

    alarms = MonitorReport.model_validate(report).alarms
    if alarms:
        raise RuntimeError(" ".join(alarms))


@contextmanager
def _pipeline_run(
    project: Project, settings: Settings, run_key: str, snapshots: Sequence[DatasetSnapshot]
) -> Iterator[str]:
    """The MLflow run that ties a pipeline run together, with the data it trained on; finished when all went well."""
    from pipelines import tracking

    tags = tracking.airflow_tags(settings, run_key)
    run_id = tracking.parent_run(settings, project=project.name, key=run_key, tags=tags)
    for snapshot in {snapshot.content_digest: snapshot for snapshot in snapshots}.values():
        tracking.log_dataset(settings, run_id, snapshot, context="training")
    yield run_id
    tracking.finish_run(settings, run_id, "FINISHED")
