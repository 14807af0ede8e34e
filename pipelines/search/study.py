"""Propose and remember trials, and decide when to stop. The only file that names optuna.

Proposals are a function of the seed and of the trials finished before, and the journal contains each finished trial.
A killed search therefore continues as if it had not been killed: an unfinished trial is proposed again, and its job,
which is found by its digest, resumes. The first trials are the unchanged starting recipes.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.search.ranking import Limits, TrialReport
from pipelines.search.space import Proposal, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.log"
REPORT = "report"
RANDOM_TRIALS = 4
"""Trials drawn at random before the optimiser models the results."""

Measure = Callable[[Proposal, float], TrialReport]
"""(proposal, seconds left for its trial and its complete run) -> report of the trial."""


def open_study(folder: Path, digest: str) -> "Study":
    """Open the study of a search from its journal under `folder`; create it when there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))),
        study_name=digest,
        direction="maximize",
        load_if_exists=True,
    )


def run_study(study: "Study", space: Space, measure: Measure, *, limits: Limits) -> dict[int, TrialReport]:
    """Propose and measure until the trials or the hours are used up; return every finished trial by its number."""
    _drop_unfinished(study)
    while len(done := finished(study)) < space.section.trials and _time_left(done, limits):
        _one_trial(study, space, measure, spent=spent_seconds(done), limits=limits)
    return finished(study)


def finished(study: "Study") -> dict[int, TrialReport]:
    """Return the report of each finished trial."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False, states=states)
    return {number: _report(trial) for number, trial in enumerate(sorted(trials, key=lambda t: t.number))}


def spent_seconds(done: Mapping[int, TrialReport]) -> float:
    """Return the wall clock of the finished trials in seconds, without interrupted attempts."""
    return sum(trial.seconds for trial in done.values())


def _drop_unfinished(study: "Study") -> None:
    """Delete the unfinished trials of an interrupted search; they are proposed again unchanged (see the module)."""
    from optuna.trial import TrialState

    waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
    running = [trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
    for number in [*running, *(study.ask().number for _ in range(waiting))]:
        study.tell(number, state=TrialState.FAIL)


def _time_left(done: Mapping[int, TrialReport], limits: Limits) -> bool:
    """Return True when one more trial leaves the time to run the best so far, or, without a best, when time is left."""
    if not done:
        return True
    spent, next_trial = spent_seconds(done), spent_seconds(done) / len(done)
    runs = [t for t in done.values() if t.outcome == "measured" and t.against_base and t.final_run_hours is not None]
    best = max(runs, key=lambda t: t.against_base.mean_difference if t.against_base else 0.0, default=None)
    reserved = 3600 * (best.final_run_hours or 0.0) if best else 0.0
    if spent + next_trial + reserved <= 3600 * limits.hours:
        return True
    log.warning("Stopping after %d trials: one more would not leave enough time for the winner's run", len(done))
    return False


def _one_trial(study: "Study", space: Space, measure: Measure, *, spent: float, limits: Limits) -> None:
    """Propose, measure and record one trial. A trial without a score is pruned: the optimiser ranks it below all
    others.
    """
    import optuna
    from optuna.trial import TrialState

    number = len(finished(study))
    study.sampler = optuna.samplers.TPESampler(
        seed=(space.section.seed + 7919 * number) % 2**31, n_startup_trials=RANDOM_TRIALS
    )
    starts = space.unchanged()
    if number < len(starts):
        study.enqueue_trial(starts[number])
    trial = study.ask()
    try:
        proposal = space.propose(trial)
    except ValueError as error:
        report = _invalid(trial.params, space, str(error))
    else:
        log.info("Trial %d of %d: %s %s", number + 1, space.section.trials, proposal.recipe.name, proposal.changes)
        report = measure(proposal, 3600 * limits.hours - spent)
    log.info("Trial %d: %s", number + 1, _describe(report))
    trial.set_user_attr(REPORT, report.model_dump(mode="json"))
    if report.outcome == "measured" and report.against_base is not None:
        study.tell(trial, report.against_base.mean_difference)
    else:
        study.tell(trial, state=TrialState.PRUNED)


def _describe(report: TrialReport) -> str:
    """Describe a trial in one line."""
    if report.against_base is None:
        return f"{report.outcome}: {report.reason.splitlines()[0] if report.reason else ''}"
    c = report.against_base
    return (
        f"{report.outcome}: win rate {c.win_rate:.3f} ({c.win_rate_low:.3f} to {c.win_rate_high:.3f}) against the base,"
        f" {report.items_per_second or 0:.2f} per second, peak {report.peak_memory_gib or 0:.2f} GiB,"
        f" complete run {report.final_run_hours or 0:.2f} h"
    )


def _invalid(params: Mapping[str, Any], space: Space, reason: str) -> TrialReport:
    return TrialReport(
        outcome="invalid",
        recipe=str(params.get("recipe", "")),
        changes=tuple(f"{name}: {value}" for name, value in params.items() if name != "recipe"),
        micro_batch=space.placement.micro_batch,
        reason=reason,
    )


def _report(trial: "FrozenTrial") -> TrialReport:
    return TrialReport.model_validate(trial.user_attrs[REPORT])
