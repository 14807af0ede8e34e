"""Register a trained preference head (RewardTrainResult) as a judge that projects can name (RegisteredJudge)."""

from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.reward_models import RewardAccuracy, RewardTrainResult
from pipelines.contracts.judges import RegisteredJudge, RewardReport
from pipelines.project.sections import RewardSection
from pipelines.records import trained_judges
from pipelines.tracking import runs
from pipelines.workspace import Workspace


def register(
    result: RewardTrainResult, section: RewardSection, workspace: Workspace, *, snapshot: DatasetSnapshot, run_id: str
) -> RegisteredJudge:
    """Publish the judge under its name and show its report on the MLflow run.

    Its training sources are those of the snapshot and of its encoder. Registration does not decide whether it may vote:
    the gate checks its agreement with held-out human pairs in every evaluation.
    """
    judge = RegisteredJudge(
        project=workspace.project.name,
        name=section.name,
        uri=result.uri,
        judge_digest=result.judge_digest,
        spec_digest=result.spec_digest,
        snapshot_digest=snapshot.content_digest,
        trained_on=tuple(sorted({*snapshot.sources, *section.trained_on})),
        report=_report_on(result, section),
    )
    judge = trained_judges.publish(judge, workspace.store)
    runs.log_dict(workspace.settings, run_id, judge.model_dump(mode="json"), f"rewards/{judge.name}.json")
    runs.log_text(workspace.settings, run_id, _table(judge), f"rewards/{judge.name}.md")
    return judge


def _report_on(result: RewardTrainResult, section: RewardSection) -> RewardReport:
    """Return the figures that the training measured."""
    return RewardReport(
        head=section.recipe.head.kind,
        num_pairs=result.num_pairs,
        num_users=result.num_users,
        best_step=result.best_step,
        mixture=result.mixture,
        accuracies=result.accuracies,
    )


def _table(judge: RegisteredJudge) -> str:
    """Format the report as Markdown."""
    report = judge.report
    mixture = ", ".join(f"{weight:.3f}" for weight in report.mixture)
    return "\n".join(
        [
            f"# {judge.name}, number {judge.number}",
            "",
            f"{report.head}, trained on {report.num_pairs} comparisons of {report.num_users} people; mixture weights as"
            f" a judge: {mixture}. Training sources: {', '.join(judge.trained_on)}.",
            "",
            "Share of held-out comparisons ranked as the users ranked them. The single taste is a Bradley-Terry head.",
            "",
            f"| users | labels per user | number of users | comparisons | {report.head} | single taste |",
            "|---|---|---|---|---|---|",
            *map(_row, report.accuracies),
            "",
        ]
    )


def _row(row: RewardAccuracy) -> str:
    labels = "all" if row.users == "seen" else str(row.labels_per_user)
    figures = f"{row.accuracy:.3f} | {row.baseline_accuracy:.3f}"
    return f"| {row.users} | {labels} | {row.num_users} | {row.num_pairs} | {figures} |"
