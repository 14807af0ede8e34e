"""Stages of votes by hand: open the ballot page of a project, and estimate people's win rate from its votes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.catalogues.rewards import ImageStatistic
from alignment.contracts.evaluation import EvalReport
from alignment.contracts.jobs import SAMPLES_DIR
from pipelines.contracts.release import CandidateVersion
from pipelines.project.sections import JudgeSection, SourceSection
from pipelines.stages.values import Json, read_project
from pipelines.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from pipelines.platform.ballot.ballot import Ballot
    from pipelines.platform.ballot.pairs import BallotModel, BallotPair

HELD_OUT_NOTE = "These prompts are held out: your votes help to judge the new model and never train one."
TRAINING_NOTE = "Your votes train the next model."


def gate_ballot(path: str, *, annotator: str, source: str, most: int) -> "Ballot":
    """Return the ballot on the images of the project's last decision. Its votes are for `people_win_rates`.

    ValueError when there is no decision or no table of votes, or the images are no longer in the store.
    """
    from pipelines.platform.ballot.pairs import SPARE_PROMPTS, blind_pairs
    from pipelines.release.gate import decision_log, evidence

    workspace = open_workspace(path)
    table = _table_of_votes(workspace, source)
    decision = decision_log.last_decision(workspace)
    if decision is None:
        raise ValueError(
            f"{path} has no decision yet, so there are no images to vote on. Run `plumbline gate {path}`, or vote on"
            " training prompts with --prompts FILE."
        )
    manifest = workspace.store.read_manifest(decision.evaluation_uri)
    if manifest is None:
        raise ValueError(f"The evaluation {decision.evaluation_uri} is no longer in the store. Evaluate again.")
    report = EvalReport.model_validate(manifest.value)
    found = blind_pairs(
        evidence.evaluated_prompts(evidence.score_columns(decision.evaluation_uri, workspace.settings)),
        _models(workspace, report, decision.candidate, decision.champion_version),
        seeds=report.spec.seeds,
        subject=decision.report_digest,
        annotator=annotator,
        most=most,
        spare=SPARE_PROMPTS,
    )
    next_step = f"plumbline gate people {path}"
    return _ballot(workspace, table, found, annotator=annotator, evaluation=decision.report_digest, next_step=next_step)


def training_ballot(path: str, prompts: str, *, annotator: str, source: str, most: int, run_key: str) -> "Ballot":
    """Draw the images of a file of training prompts if they are not in the store, and return the ballot on them.

    ValueError when the file has prompts that are held out, or there is no candidate.
    """
    from pipelines.platform.ballot.pairs import blind_pairs
    from pipelines.records.heldout_prompts import check_not_heldout, evaluation_prompts, heldout_prompts
    from pipelines.release.champion.versions import champion_of
    from pipelines.stages import candidates

    workspace = open_workspace(path)
    table = _table_of_votes(workspace, source)
    drawing = _drawing_only(workspace, prompts)
    lines = evaluation_prompts(drawing.project, drawing.store)
    texts = ["", *(line.text for line in lines)]  # the header is the first line
    check_not_heldout(texts, heldout_prompts(workspace.project, workspace.store), prompts)
    first, second = _challenger(
        CandidateVersion.model_validate(candidates.pick_candidate(path)), champion_of(workspace)
    )
    report = _draw(drawing, first, second, run_key=run_key)
    found = blind_pairs(
        lines,
        _models(workspace, report, first, second.version if second else None),
        seeds=report.spec.seeds,
        subject=report.spec.digest,
        annotator=annotator,
        most=most,
    )
    return _ballot(workspace, table, found, annotator=annotator, evaluation=None, next_step=f"plumbline ingest {path}")


def open_page(ballot: "Ballot", *, port: int, announce: Callable[[str], None]) -> Json:
    """Serve the page of a ballot until Ctrl-C; return what was voted on."""
    from pipelines.platform.ballot.server import serve

    before = ballot.num_voted
    serve(ballot, port=port, announce=announce)
    return {
        "annotator": ballot.annotator,
        "pairs": len(ballot.pairs),
        "voted": ballot.num_voted,
        "voted_now": ballot.num_voted - before,
        "next": ballot.next_step,
    }


def people_win_rates(file: Path, votes: Path | None) -> list[Json]:
    """Combine a decision's judges with people's votes: those of a CSV file, else those of the project's ballot page.

    `file` is a project or, with a CSV file, the JSON file of a decision.
    """
    from pipelines.release.gate import human_votes
    from pipelines.settings import load_settings

    shares = human_votes.read_votes(votes) if votes is not None else _recorded_shares(file)
    return [rate.model_dump(mode="json") for rate in human_votes.human_win_rates(file, shares, load_settings())]


def _recorded_shares(file: Path) -> Mapping[str, float]:
    """Read the votes on the evaluation of the last decision from the tables of votes; ValueError if there are none."""
    from pipelines.intake.sources import feedback_table
    from pipelines.release.gate import decision_log, human_votes
    from pipelines.settings import load_settings

    if file.suffix != ".toml":
        raise ValueError(f"{file} names no table of votes. Give the project instead, or a CSV file of votes.")
    decision = decision_log.load_decision(file, load_settings())
    tables = [source for source in read_project(str(file)).sources if source.kind == "feedback"]
    rows = [row for table in tables for row in feedback_table.votes_on(table, decision.report_digest)]
    if not rows:
        raise ValueError(
            f"There are no votes on the last evaluation of {file.stem} yet. Run `plumbline vote {file}`, or give a CSV"
            " file of votes."
        )
    return human_votes.shares_for(decision, rows)


def _table_of_votes(workspace: Workspace, name: str) -> SourceSection:
    """Return the feedback source that gets the votes, with a table that can hold them; ValueError without one."""
    from pipelines.intake.sources import feedback_table

    project = workspace.project
    found = {source.name: source for source in project.sources if source.kind == "feedback"}
    if not found:
        raise ValueError(
            f"{project.path} has no source for votes. Add this table, then run `plumbline feedback init"
            f' {project.path}`:\n\n[[sources]]\nname = "votes"\nkind = "feedback"\nuri = "../votes.db"\n'
            'licence = "proprietary"\n'
        )
    if name not in found and (name or len(found) > 1):
        known = ", ".join(found)
        raise ValueError(f"{project.path} has the feedback sources {known}. Name one of them with --source.")
    source = found[name] if name else next(iter(found.values()))
    feedback_table.prepare_ballots(source)
    return source


def _drawing_only(workspace: Workspace, prompts: str) -> Workspace:
    """Return the workspace with another prompts file and no judges.

    The job that draws needs a scorer: it gets a statistic of the pixels, which costs next to nothing.
    """
    scorer = JudgeSection(name="saturation", scorer=ImageStatistic(statistic="saturation"))
    own = {
        "prompts": prompts if "://" in prompts else str(Path(prompts).absolute()),
        **{"judges": (scorer,), "guards": (), "tie_thresholds": {}},
    }
    evaluation = workspace.project.evaluation.model_copy(update=own)
    return Workspace(workspace.project.model_copy(update={"evaluation": evaluation}), workspace.settings)


def _challenger(
    candidate: CandidateVersion, champion: CandidateVersion | None
) -> tuple[CandidateVersion, CandidateVersion | None]:
    """Return the two versions to compare, None for the base: candidate and champion, or the champion and the base if
    the candidate became the champion.
    """
    if champion is not None and champion.weights_digest == candidate.weights_digest:
        return champion, None
    return candidate, champion


def _draw(
    workspace: Workspace, first: CandidateVersion, second: CandidateVersion | None, *, run_key: str
) -> EvalReport:
    from pipelines.dispatch import jobs
    from pipelines.dispatch.job_kinds import Evaluate
    from pipelines.dispatch.requests import judging

    request = judging.comparison_request(workspace, Evaluate(candidate=first, champion=second))
    return EvalReport.model_validate(jobs.run_to_end(request, workspace.settings, parent_key=run_key))


def _models(
    workspace: Workspace, report: EvalReport, candidate: CandidateVersion, champion_version: int | None
) -> tuple["BallotModel", "BallotModel"]:
    """Return candidate and champion of an evaluation with their images; ValueError when these are gone."""
    from pipelines.platform.ballot.pairs import BallotModel

    store, name, spec = workspace.store, workspace.project.name, report.spec
    titles = (f"version {candidate.version}", "base" if champion_version is None else f"version {champion_version}")
    if spec.candidate == spec.champion:
        raise ValueError(f"The candidate of {name} has the champion's weights: there is nothing to compare.")
    found = []
    for title, model in zip(titles, (spec.candidate, spec.champion), strict=True):
        uri = store.uri("evaluations", SAMPLES_DIR, spec.sample_spec(model).digest)
        if store.read_manifest(uri) is None:
            raise ValueError(f"The images of {name} {title} are not in the store at {uri}. Evaluate again.")
        found.append(BallotModel(f"{name} {title} {model.weights_digest}", uri))
    return found[0], found[1]


def _ballot(
    workspace: Workspace,
    table: SourceSection,
    pairs: "list[BallotPair]",
    *,
    annotator: str,
    evaluation: str | None,
    next_step: str,
) -> "Ballot":
    """Connect pairs with the store and the table of votes. `evaluation` is None for votes to train on."""
    from pipelines.intake.sources import feedback_table
    from pipelines.platform.ballot.ballot import Ballot

    if not pairs:
        raise ValueError("There are too few prompts to vote on. Give a file with more prompts.")
    store = workspace.store

    def record(pair: "BallotPair", preference: float) -> bool:
        vote = feedback_table.BallotVote(
            ballot=pair.key,
            prompt=pair.prompt,
            image_0=store.read_bytes(pair.left.uri),
            image_1=store.read_bytes(pair.right.uri),
            preference=preference,
            annotator=annotator,
            generator_0=pair.left.generator,
            generator_1=pair.right.generator,
            evaluation=evaluation,
        )
        return feedback_table.record_vote(table, vote)

    return Ballot(
        project=workspace.project.name,
        annotator=annotator,
        pairs=pairs,
        note=TRAINING_NOTE if evaluation is None else HELD_OUT_NOTE,
        next_step=next_step,
        read_image=store.read_bytes,
        record=record,
        withdraw=lambda pair: feedback_table.withdraw_vote(table, pair.key),
        voted=feedback_table.recorded_ballots(table, [pair.key for pair in pairs]),
    )
