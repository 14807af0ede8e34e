"""Commands for the stages of the loop. Each command imports its stages when it runs, so that help starts fast."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.answers import DONE, GATE_SAID_NO, show
from pipelines.commands.arguments import AsJson, ModelVersion, Overrides, Project, Recipe

if TYPE_CHECKING:
    from pipelines.stages.values import Json

log = logging.getLogger(__name__)

Snapshot = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Beginning of a digest, or last or previous.")]
CHECK_COLUMNS = ("name", "measured", "required", "passed")

# --- pairs ----------------------------------------------------------------------------------------------------------


def draw(project: Project, as_json: AsJson = False) -> int:
    """Draw image pairs from the base model for sources of kind self_generated."""
    from pipelines.commands import by_hand

    show(by_hand.draw(project), as_json=as_json)
    return DONE


def ingest(project: Project, as_json: AsJson = False) -> int:
    """Fetch every shard of every source into an immutable batch.

    Every shard is tried. The exit code is 2 when one cannot be read, and the others are printed.
    """
    from pipelines.commands import by_hand

    return _show_shards("batches", *by_hand.batches(project), as_json=as_json)


def validate(project: Project, as_json: AsJson = False) -> int:
    """Check every batch against the data rules and quarantine the rows that break one.

    Every shard is tried. The exit code is 2 when one cannot be used, and the others are printed.
    """
    from pipelines.commands import by_hand
    from pipelines.stages import pairs

    reports, failures = by_hand.reports(project)
    return _show_shards("reports", reports, failures, as_json=as_json, rows=pairs.count_pairs(reports))


def _show_shards(
    name: str, values: list[dict[str, Any]], failures: list[dict[str, Any]], *, as_json: bool, **more: Any
) -> int:
    """Print the values of the shards that could be used, and `more`; ValueError about the others."""
    from pipelines.stages import pairs

    if values or not failures:
        show({name: values, **more, **({"failures": failures} if failures else {})}, as_json=as_json)
    if failures:
        raise ValueError(pairs.failure_message({"shards": len(values) + len(failures), "failures": failures}))
    return DONE


def snapshot(project: Project, as_json: AsJson = False) -> int:
    """Build a content-addressed data set of all accepted pairs, and write its data report."""
    from pipelines.commands import by_hand
    from pipelines.stages import pairs

    built = by_hand.snapshot(project)
    show({**built, "data_report_uri": pairs.data_report_uri(project)}, as_json=as_json)
    return DONE


def diff(
    project: Project,
    before: Snapshot = "previous",
    now: Snapshot = "last",
    *,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Pairs to list of each kind of change; 0 lists none.")
    ] = 10,
    as_json: AsJson = False,
) -> int:
    """Compare two snapshots: the pairs that were added, left, or have another label or split.

    A snapshot is named by the beginning of its digest, or by last or previous.
    """
    from pipelines.stages import pairs

    found = pairs.diff_snapshots(project, before, now, most=examples)
    show(found, as_json=as_json, columns=("change", "source", "prompt", "before", "now", "pair_id"))
    return DONE


def label(project: Project, as_json: AsJson = False) -> int:
    """Label the training pairs with judges instead of people, and report on the labels.

    The project file needs a labelling section.
    """
    from pipelines.commands import by_hand

    show(by_hand.labelled(project), as_json=as_json)
    return DONE


def caption(project: Project, as_json: AsJson = False) -> int:
    """Write a caption for each image of the snapshot.

    The project file needs a captions section.
    """
    from pipelines.commands import by_hand

    show(by_hand.captions(project), as_json=as_json)
    return DONE


# --- training -------------------------------------------------------------------------------------------------------


def encode(project: Project, overrides: Overrides = None, recipe: Recipe = None, as_json: AsJson = False) -> int:
    """Encode the snapshot to VAE latents and text states. Online recipes do not need them."""
    from pipelines.commands import by_hand

    show(by_hand.features(*chosen_recipe(project, recipe, overrides)), as_json=as_json)
    return DONE


def train(project: Project, overrides: Overrides = None, recipe: Recipe = None, as_json: AsJson = False) -> int:
    """Train every recipe of the project."""
    from pipelines.commands import by_hand

    show(by_hand.results(*chosen_recipe(project, recipe, overrides)), as_json=as_json)
    return DONE


def soup(project: Project, overrides: Overrides = None, recipe: Recipe = None, as_json: AsJson = False) -> int:
    """Average the weights of the trained recipes into one model.

    The project file needs a soup section.
    """
    from pipelines.commands import by_hand

    show(by_hand.soup(*chosen_recipe(project, recipe, overrides)), as_json=as_json)
    return DONE


def search(
    project: Project,
    *,
    gpu_memory: Annotated[float, typer.Option(metavar="GIB", help="GPU memory that one process may use, in GiB.")],
    hours: Annotated[float, typer.Option(metavar="H", help="Time for the search and the winner's training, in hours.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Recipe file to write.", show_default="recipes/NAME_search.toml beside the project"
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Search for the best recipe within your limits and write it as a recipe file."""
    from pipelines.commands import by_hand

    show(by_hand.search(project, gpu_memory_gib=gpu_memory, hours=hours, out=out), as_json=as_json)
    return DONE


def register(project: Project, overrides: Overrides = None, recipe: Recipe = None, as_json: AsJson = False) -> int:
    """Register the trained weights as model versions with the alias candidate."""
    from pipelines.commands import by_hand

    show(by_hand.candidates(*chosen_recipe(project, recipe, overrides)), as_json=as_json)
    return DONE


def run(project: Project, overrides: Overrides = None, recipe: Recipe = None, as_json: AsJson = False) -> int:
    """Run the whole loop without Airflow, from the pairs to the champion alias.

    The exit code is 0 if a candidate became, or already was, the champion, and 3 if the gate promoted none or is off,
    or a person has to approve first.
    """
    from pipelines.commands import by_hand

    found = by_hand.candidates(*chosen_recipe(project, recipe, overrides))
    return _promote(project, found, as_json=as_json)


# --- judges ---------------------------------------------------------------------------------------------------------


def reward(project: Project, as_json: AsJson = False) -> int:
    """Train the project's reward models, report on them and register them as judges."""
    from pipelines.commands import by_hand

    show(by_hand.rewards(project), as_json=as_json)
    return DONE


def calibrate(project: Project, as_json: AsJson = False) -> int:
    """Measure how often each judge agrees with held-out human labels, and record it."""
    from pipelines.commands import by_hand

    show(by_hand.calibrations(project), as_json=as_json)
    return DONE


def judges(project: Project, as_json: AsJson = False) -> int:
    """List the judges that may vote, and why the others may not."""
    from pipelines.stages import judges as stages

    show(stages.judges(project), as_json=as_json, columns=("judge", "kind", "may_vote", "accuracy", "reasons"))
    return DONE


# --- evaluation and gate --------------------------------------------------------------------------------------------


def evaluate(project: Project, model_version: ModelVersion = None, as_json: AsJson = False) -> int:
    """Compare candidate, champion and base model on the held-out prompts."""
    from pipelines.commands import by_hand
    from pipelines.stages import candidates

    show(by_hand.evaluation(project, candidates.pick_candidate(project, model_version)), as_json=as_json)
    return DONE


def coverage(project: Project, model_version: ModelVersion = None, as_json: AsJson = False) -> int:
    """Measure the gain from picking the best of several images.

    It measures candidate, champion and base model."""
    from pipelines.commands import by_hand
    from pipelines.stages import candidates

    show(by_hand.coverage(project, candidates.pick_candidate(project, model_version)), as_json=as_json)
    return DONE


def gate(project: Project, model_version: ModelVersion = None, as_json: AsJson = False) -> int:
    """Evaluate the candidate and decide whether it may become the champion.

    No alias moves. The exit code is 0 if the verdict is promote and 3 otherwise.
    """
    from pipelines.commands import by_hand
    from pipelines.stages import candidates

    decision = by_hand.decision(project, candidates.pick_candidate(project, model_version))
    show(decision, as_json=as_json, columns=CHECK_COLUMNS)
    return DONE if decision["verdict"] == "promote" else GATE_SAID_NO


def promote(
    project: Project,
    model_version: ModelVersion = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve, as this user, a decision that another user requested.")
    ] = False,
    decision: Annotated[
        str, typer.Option(metavar="DIGEST", help="With --approve: digest of the decision, or its first digits.")
    ] = "",
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Promote without the gate, whose mode must be off. Needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="With --by-hand: reason, kept in the ledger.")] = "",
    forward: Annotated[
        bool, typer.Option("--forward", help="With --by-hand: promote weights that a rollback left.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Evaluate the candidate, decide, and move the champion alias if the verdict is promote.

    If the project requires an approval, one user runs promote and another approves with --approve, which evaluates
    nothing. The exit code is 0 if the candidate is the champion afterwards and 3 otherwise.

    With gate.mode = "off", --by-hand moves the alias to a registered version that nothing judged. The ledger, the
    status and the version's pages call it ungated.
    """
    from pipelines.host import shell_user
    from pipelines.stages import candidates, champion

    _check_promote_options(by_hand, approve or bool(decision), bool(reason) or forward)
    if decision and not approve:
        raise ValueError(f"--decision {decision} names a decision to approve. Add --approve, or leave it out.")
    if by_hand:
        user = shell_user()
        moved = champion.promote_by_hand(project, actor=user, reason=reason, version=model_version, forward=forward)
        show(moved, as_json=as_json)
        return DONE
    candidates.check_gate_on(project)
    candidate = candidates.pick_candidate(project, model_version)
    if approve and (decision or champion.may_need_approval(project)):
        promotion = champion.approve_by_hand(project, candidate, user=shell_user(), digest=decision)
        show([promotion], as_json=as_json)
        return DONE if promotion["to_version"] == candidate["version"] else GATE_SAID_NO
    return _promote(project, [candidate], as_json=as_json)


def _check_promote_options(by_hand: bool, approves: bool, explains: bool) -> None:
    if by_hand and approves:
        raise ValueError("--by-hand promotes without a decision, so there is none to --approve. Give one of the two.")
    if explains and not by_hand:
        raise ValueError("--reason and --forward belong to --by-hand. Add it, or leave them out.")


def chosen_recipe(project: str, recipe: str | None, overrides: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return the project file to use and the overrides that remain to apply.

    With `recipe`, the file is a variant that trains this recipe with the overrides.
    """
    if recipe is None:
        return project, tuple(overrides or ())
    from pipelines.project.recipe_swap import write_variant
    from pipelines.settings import load_settings

    path = write_variant(Path(project), recipe, tuple(overrides or ()), load_settings())
    log.info("%s with the recipe %s: %s", project, recipe, path)
    return str(path), ()


def _promote(project: str, candidates: "list[Json]", *, as_json: bool) -> int:
    from pipelines.commands import by_hand

    promotions, done = by_hand.promotions(project, candidates)
    show(promotions, as_json=as_json)
    return DONE if done else GATE_SAID_NO
