"""RewardTrainResult to RegisteredJudge: a trained preference head becomes a judge that projects can name."""

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

    It learnt from the snapshot's sources and from whatever its encoder learnt from. Whether it may vote is not settled
    here: the gate checks it on held-out people each time.
    """
    judge = RegisteredJudge(
        project=workspace.project.name,
        name=section.name,
        uri=result.uri,
        judge_digest=result.judge_digest,
        spec_digest=result.spec_digest,
        snapshot_digest=snapshot.content_digest,
        trained_on=tuple(sorted({*snapshot.sources, *section.trained_on})),
        report=report_on(result, section),
    )
    judge = trained_judges.publish(judge, workspace.store)
    runs.log_dict(workspace.settings, run_id, judge.model_dump(mode="json"), f"rewards/{judge.name}.json")
    runs.log_text(workspace.settings, run_id, table(judge), f"rewards/{judge.name}.md")
    return judge


def report_on(result: RewardTrainResult, section: RewardSection) -> RewardReport:
    """What the training measured."""
    return RewardReport(
        head=section.recipe.head.kind,
        num_pairs=result.num_pairs,
        num_users=result.num_users,
        best_step=result.best_step,
        mixture=result.mixture,
        accuracies=result.accuracies,
    )


def table(judge: RegisteredJudge) -> str:
    """The report as Markdown."""
    report = judge.report
    mixture = ", ".join(f"{weight:.3f}" for weight in report.mixture)
    return "\n".join(
        [
            f"# {judge.name}, number {judge.number}",
            "",
            f"{report.head} on {report.num_pairs} comparisons of {report.num_users} people; judges with the mixture"
            f" {mixture}. Learnt from {', '.join(judge.trained_on)}.",
            "",
            "Share of held-out comparisons ranked as their users did; the single taste is a Bradley-Terry head.",
            "",
            f"| users | labels each | people | comparisons | {report.head} | single taste |",
            "|---|---|---|---|---|---|",
            *map(_row, report.accuracies),
            "",
        ]
    )


def _row(row: RewardAccuracy) -> str:
    labels = "all" if row.users == "seen" else str(row.labels_per_user)
    figures = f"{row.accuracy:.3f} | {row.baseline_accuracy:.3f}"
    return f"| {row.users} | {labels} | {row.num_users} | {row.num_pairs} | {figures} |"
