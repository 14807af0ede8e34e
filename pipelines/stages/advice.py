"""Stage of `plumbline gate advise`: collect the facts of a project, and return the advice as plain JSON."""

from pipelines.settings import load_settings
from pipelines.stages.values import Json, read_project, to_json
from pipelines.workspace import Workspace


def advice(path: str) -> Json:
    """Return what the gate can show for the prompts, judges and pairs of a project; evaluates nothing."""
    from alignment.statistics.prompt_groups import count_groups
    from pipelines.monitor import judges as judges_monitor
    from pipelines.records.heldout_prompts import evaluation_prompts
    from pipelines.release.gate import advice as advising

    workspace = Workspace(read_project(path), load_settings())
    project = workspace.project
    sections = {section.name: section for section in project.evaluation.judges}
    judges = []
    for state in judges_monitor.judge_states(workspace):
        section = sections[state.judge]
        encoder = section.encoder_family or section.scorer.encoder_family or section.name
        judges.append(
            advising.planned_judge(state.judge, state.kind, encoder, accuracy=state.accuracy, pairs=state.num_pairs)
        )
    found = advising.advise(
        project.name,
        project.gate,
        judges,
        prompts=count_groups(evaluation_prompts(project, workspace.store)),
        seeds=len(project.evaluation.seeds),
        human_pairs=max((judge.pairs for judge in judges), default=0) or _expected_pairs(workspace),
        approvers=len(project.approval.approvers) if project.approval.mode == "required" else 0,
        confidence=project.evaluation.confidence,
    )
    return to_json(found)


def _expected_pairs(workspace: Workspace) -> int:
    """Estimate the pairs that a calibration would use: the split's share of the accepted pairs with human labels."""
    from pipelines.intake.accepted import accepted_reports

    project = workspace.project
    people = [source.name for source in project.sources if source.draw is None]
    reports = accepted_reports(workspace, people)
    accepted = sum(report.num_accepted for report in reports if not report.is_unpaired)
    return int(accepted * project.snapshot.calibration_share)
