"""Run stages from the command line, each with the stages that it builds on. Earlier results are found by digest.

`project` is the path of a project file. Values are the stages' JSON.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.host import shell_user
from pipelines.stages import candidates as candidate_stages
from pipelines.stages import champion, jobs, judges, monitor, pairs, training, values
from pipelines.stages.values import Json

log = logging.getLogger(__name__)

Overrides = tuple[str, ...]


def draw(project: str) -> list[Json]:
    """Draw the pairs of the self-generated sources; ValueError when the project has none."""
    if not pairs.drawn_sources(values.read_project(project)):
        raise ValueError(f'{project} has no source of kind "self_generated"; there is nothing to draw.')
    return pairs.draw(project, run_key=run_key(project))


def batches(project: str) -> tuple[list[Json], list[Json]]:
    """Ingest every shard of every source; return the RawBatches, and a ShardFailure for each that cannot be read."""
    pairs.draw(project, run_key=run_key(project))
    return pairs.ingest_each(project, pairs.list_shards(project))


def reports(project: str) -> tuple[list[Json], list[Json]]:
    """Ingest and validate every shard of every source; return the reports, and a ShardFailure for each bad shard."""
    pairs.draw(project, run_key=run_key(project))
    return pairs.read_each(project, pairs.list_shards(project))


def _read_sources(project: str) -> None:
    """Ingest and validate; ValueError when more shards fail than the project allows. Fewer are a warning."""
    found, failures = reports(project)
    pairs.check_failures(project, failures, len(found) + len(failures))
    if failures:
        log.warning("%s", pairs.failure_message({"shards": len(found) + len(failures), "failures": failures}))


def snapshot(project: str, *, run_key: str = "") -> Json:
    """Build a snapshot of every accepted pair. With a `run_key`, its data report is shown in that run in MLflow."""
    _read_sources(project)
    return pairs.snapshot(project, run_key=run_key)


def labelled(project: str) -> Json:
    """Label the snapshot and report; ValueError when the project has no labelling."""
    if values.read_project(project).labelling is None:
        raise ValueError(
            f'{project} has no [labelling]. Add one, e.g. judges = [NAME] and method = {{kind = "proxy_vote"}}.'
        )
    found = _training_data(project)
    return {"snapshot": found, "report": pairs.label_report(found)}


def captions(project: str) -> Json:
    """Caption the snapshot's images; ValueError when the project has no captions."""
    values.read_project(project).caption_section()
    return jobs.run_job(project, "caption", {"snapshot": _training_data(project)}, run_key=run_key(project))


def features(project: str, overrides: Overrides) -> list[Json]:
    """Encode the snapshot: a FeatureCache for each distinct snapshot, backbone and cut of the recipes."""
    return _caches(project, overrides, _training_data(project, overrides))


def results(project: str, overrides: Overrides) -> list[Json]:
    """Train every recipe."""
    return _train(project, overrides, _trainings(project, overrides))


def soup(project: str, overrides: Overrides) -> Json:
    """Average the trained recipes; ValueError when the project has no soup."""
    if values.read_project(project, overrides).soup is None:
        raise ValueError(f'{project} has no [soup]. Add one, with method = "uniform" or "greedy".')
    trainings = _trainings(project, overrides)
    return _soup(project, overrides, trainings, _train(project, overrides, trainings))


def search(project: str, *, gpu_memory_gib: float, hours: float, out: str | None) -> Json:
    """Search for a recipe within the limits; bad limits fail before any pair is read."""
    training.check_search(project, gpu_memory_gib=gpu_memory_gib, hours=hours, out=out)
    return training.search(project, snapshot(project), gpu_memory_gib=gpu_memory_gib, hours=hours, out=out)


def rewards(project: str) -> list[Json]:
    """Train and register the reward models; ValueError when the project has none."""
    if not values.read_project(project).rewards:
        raise ValueError(f"{project} has no [[rewards]]. Add one: name, encoder, and a recipe with its head.")
    _read_sources(project)
    key, found = run_key(project), []
    for plan in training.plan_rewards(project):
        result = jobs.run_job(project, "train_reward", plan, run_key=key)
        found.append(judges.register_reward(project, plan, result, run_key=key))
    return found


def calibrations(project: str) -> list[Json]:
    """Calibrate every judge on all accepted pairs."""
    return _calibrate(project, snapshot(project))[1]


def monitor_report(project: str) -> Json:
    """Compare the champion with all accepted pairs."""
    calibration, _ = _calibrate(project, snapshot(project))
    return monitor.monitor(project, calibration, run_key=run_key(project))


def candidates(project: str, overrides: Overrides) -> list[Json]:
    """Register every trained recipe, or only the soup if the project has one."""
    key, user, trainings = run_key(project), shell_user(), _trainings(project, overrides)
    trained = _train(project, overrides, trainings)
    if values.read_project(project).soup is not None:
        averaged = _soup(project, overrides, trainings, trained)
        return [
            candidate_stages.register_soup(project, trainings, trained, soup=averaged, run_key=key, trained_by=user)
        ]
    return [
        candidate_stages.register(project, given["snapshot"], result, run_key=key, trained_by=user)
        for given, result in zip(trainings, trained, strict=True)
    ]


def evaluation(project: str, candidate: Json) -> Json:
    """Evaluate the candidate."""
    return jobs.run_job(project, "evaluate", {"candidate": candidate}, run_key=run_key(project))


def coverage(project: str, candidate: Json) -> Json:
    """Measure the gain from choosing the best of several images."""
    return jobs.run_job(project, "coverage", {"candidate": candidate}, run_key=run_key(project))


def decision(project: str, candidate: Json) -> Json:
    """Evaluate the candidate and decide on it; ValueError while the gate is off."""
    candidate_stages.check_gate_on(project)
    read = values.read_project(project)
    if read.gate.maximum_calibration_age_days:
        _calibrate(project, pairs.snapshot(project))
    evaluated = evaluation(project, candidate)
    covered = coverage(project, candidate) if read.coverage is not None else None
    key, user = run_key(project), shell_user()
    return candidate_stages.gate(project, candidate, evaluated, run_key=key, coverage=covered, asked_by=user)


def promotions(project: str, found: Sequence[Json]) -> tuple[list[Json], bool]:
    """Decide on each candidate and promote it. Also return True if one became, or already was, the champion.

    While the gate is off nothing is evaluated, and each candidate waits for a person.
    """
    if values.read_project(project).gate.mode == "off":
        return [_waiting(project, candidate) for candidate in found], False
    moves = [_promotion(project, candidate) for candidate in found]
    return [move for move, _ in moves], any(done for _, done in moves)


def _promotion(project: str, candidate: Json) -> tuple[Json, bool]:
    if not candidate_stages.is_challenger(project, candidate):
        message = f"Version {candidate['version']} already has the champion's weights."
        return {"model": candidate["model"], "moved": False, "message": message}, True
    decided = decision(project, candidate)
    promotion = champion.promote(project, decided, actor=shell_user())
    if promotion["outcome"] == "rejected":
        print(f"plumbline: {champion.approval_instructions(project, decided)}", file=sys.stderr)
    return promotion, bool(promotion["moved"])


def _waiting(project: str, candidate: Json) -> Json:
    version = candidate["version"]
    message = (
        f"The gate is off, so version {version} was not evaluated and nothing was moved. To promote it: plumbline"
        f" promote {project} --by-hand --version {version} --reason TEXT"
    )
    return {"model": candidate["model"], "version": version, "moved": False, "outcome": "held", "message": message}


def run_key(project: str) -> str:
    """Return the name of the parent run in MLflow for commands on a project."""
    return f"{Path(project).stem}.by_hand"


def _training_data(project: str, overrides: Overrides = ()) -> Json:
    """Build the snapshot with the project's labels; a bad recipe fails before any pair is read."""
    values.read_project(project, overrides)
    key = run_key(project)
    return pairs.labelled_snapshot(project, snapshot(project, run_key=key), run_key=key)


def _caches(project: str, overrides: Overrides, data: Json) -> list[Json]:
    if training.needs_captioned_snapshot(project, overrides):
        _job(project, overrides, "caption", {"snapshot": data})
    encodings = training.plan_encodings(project, data, overrides)
    return [_job(project, overrides, "encode", given) for given in encodings]


def _trainings(project: str, overrides: Overrides) -> list[Json]:
    """Return the input of a train job for each recipe."""
    data = _training_data(project, overrides)
    caches = _caches(project, overrides, data)
    references = [
        _job(project, overrides, "reference_errors", given)
        for given in training.plan_references(project, data, caches, overrides)
    ]
    return training.plan_trainings(project, data, caches, references, overrides)


def _train(project: str, overrides: Overrides, trainings: list[Json]) -> list[Json]:
    return [_job(project, overrides, "train", given) for given in trainings]


def _soup(project: str, overrides: Overrides, trainings: list[Json], trained: list[Json]) -> Json:
    return _job(project, overrides, "soup", {"trainings": trainings, "results": trained})


def _calibrate(project: str, data: Json) -> tuple[Json, list[Json]]:
    """Return the report of the calibrate job and the stored records."""
    key = run_key(project)
    report = jobs.run_job(project, "calibrate", {"snapshot": data}, run_key=key)
    return report, judges.record_calibration(project, report, run_key=key)


def _job(project: str, overrides: Overrides, stage: str, given: Json) -> Json:
    """Run a job as the user at the shell, who may then not approve the candidate."""
    key, user = run_key(project), shell_user()
    return jobs.run_job(project, stage, given, run_key=key, overrides=overrides, started_by=user)
