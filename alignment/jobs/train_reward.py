"""Train a preference head on a snapshot's comparisons and export it as a judge.

python -m alignment.jobs.train_reward --spec RewardTrainSpec.json --placement P.json --inputs DIR --out DIR

DIR holds, by digest, the snapshot and the CLIP. OUT gets embeddings/ (of the train and test splits), metrics.jsonl,
head/ (with its users), judge/ (without) and, last, result.json. One process does the work; others wait. A stopped run
keeps its embeddings and trains again from the first step, to the same weights. The calibration split is never read:
the judge is calibrated on it later.
"""

import logging
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import PartialState

from alignment.contracts.data import Split
from alignment.contracts.jobs import JUDGE_DIR, METRICS_FILE, Placement
from alignment.contracts.reward_models import BradleyTerry, Head, RewardAccuracy, RewardTrainResult, RewardTrainSpec
from alignment.evaluation.reward_accuracy import HeadAndBaseline, seen_users, unseen_users
from alignment.files.durable import content_digest
from alignment.files.progress import JobProgress
from alignment.jobs.outcome import JobPaths, claim_output, read_object, run_job, write_result
from alignment.jobs.processes import start_processes
from alignment.rewards.clip_model import ClipModel
from alignment.rewards.pal import write_head, write_judge
from alignment.rewards.pal_head import PreferenceHead
from alignment.training.embeddings import (
    EmbeddedComparisons,
    embed_split,
    num_comparisons,
    read_embeddings,
    write_embeddings,
)
from alignment.training.metrics import append_metrics, cut_back
from alignment.training.reward_model import OnStep, PreferencePairs, TrainedHead, build_head, train_head
from alignment.training.seeding import stream_seed

logger = logging.getLogger(__name__)

EMBEDDINGS_DIR = "embeddings"
HEAD_DIR = "head"
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class _Parts:
    """The comparisons of one run, each with the row of its user within its group."""

    training: PreferencePairs
    validation: PreferencePairs
    seen_tests: PreferencePairs
    unseen_labels: PreferencePairs
    unseen_tests: PreferencePairs
    users: tuple[str, ...]
    """Seen users, in the order of the head's logits."""


def main(paths: JobPaths) -> None:
    """Read the spec, embed, train, measure, export."""
    spec = read_object(paths.spec, RewardTrainSpec, what="reward spec")
    placement = read_object(paths.placement, Placement, what="placement")
    state = start_processes(placement)
    if state.is_main_process:
        _run(paths, spec, placement, state)
    state.wait_for_everyone()


def _run(paths: JobPaths, spec: RewardTrainSpec, placement: Placement, state: PartialState) -> None:
    claim_output(paths, spec, "reward spec")
    snapshot_dir = paths.input(spec.snapshot_digest, "snapshot")
    images = sum(num_comparisons(snapshot_dir, split) for split in SPLITS)
    steps = spec.recipe.steps
    with JobProgress(paths.out, total=images + 2 * steps, unit="steps") as progress:
        train, test = _embed_all(paths, spec, placement, state, progress=progress)
        parts = _divide(train, test, spec, state.device)

        def note(step: int, metrics: dict[str, float]) -> None:
            progress.update(images + step, "training")
            if step % placement.log_every_steps == 0 or step == steps:
                append_metrics(paths.out, step, metrics)

        cut_back(paths.out / METRICS_FILE, 0)
        trained = _train_one(spec.recipe.head, parts, spec, on_step=note)
        baseline = _train_baseline(trained, parts, spec, progress=progress)
        accuracies = _measure(HeadAndBaseline(trained.head, baseline), parts, spec)
    mixture = spec.mixture or _mean_mixture(trained.head)
    write_head(trained.head, parts.users, paths.out / HEAD_DIR)
    write_judge(trained.head, mixture, paths.input(spec.embedder_digest, "embedder"), paths.out / JUDGE_DIR)
    write_result(paths.out, _result_of(paths, spec, parts, trained, mixture=mixture, accuracies=accuracies))


def _embed_all(
    paths: JobPaths, spec: RewardTrainSpec, placement: Placement, state: PartialState, *, progress: JobProgress
) -> tuple[EmbeddedComparisons, EmbeddedComparisons]:
    """Embed the train and the test split, or read them from OUT where an earlier run stored them."""
    folder, done, found = paths.out / EMBEDDINGS_DIR, 0, []
    for split in SPLITS:
        comparisons = read_embeddings(folder, split)
        if comparisons is None:
            clip = ClipModel(paths.input(spec.embedder_digest, "embedder"), state.device)
            comparisons = embed_split(
                paths.input(spec.snapshot_digest, "snapshot"),
                split,
                clip,
                micro_batch=placement.micro_batch,
                after_batch=partial(_embedded, progress, done),
            )
            write_embeddings(comparisons, folder, split)
        done += len(comparisons)
        found.append(comparisons)
    return found[0], found[1]


def _embedded(progress: JobProgress, before: int, count: int) -> None:
    progress.update(before + count, "embedding")


# --- held-out users and prompts ---------------------------------------------------------------------------------------


def _divide(
    train: EmbeddedComparisons, test: EmbeddedComparisons, spec: RewardTrainSpec, device: torch.device
) -> _Parts:
    """Set unseen users aside, and some prompts of the others for validation; both follow from the seed alone."""
    recipe = spec.recipe
    users = sorted(set(train.annotators))
    shuffled = sorted(users, key=lambda user: stream_seed("unseen", recipe.seed, user))
    aside = set(shuffled[: int(recipe.unseen_users_share * len(users))])
    seen, unseen = ([user for user in users if (user in aside) is wanted] for wanted in (False, True))
    limit = recipe.validation_share * 2**63
    held_out = {prompt for prompt in set(train.prompts) if stream_seed("validation", recipe.seed, prompt) < limit}
    known = _pairs_of(train, seen, device)
    prompts = [prompt for prompt, user in zip(train.prompts, train.annotators, strict=True) if user not in aside]
    is_held_out = torch.tensor([prompt in held_out for prompt in prompts], dtype=torch.bool, device=device)
    return _Parts(
        training=known.take((~is_held_out).nonzero().flatten()),
        validation=known.take(is_held_out.nonzero().flatten()),
        seen_tests=_pairs_of(test, seen, device),
        unseen_labels=_pairs_of(train, unseen, device),
        unseen_tests=_pairs_of(test, unseen, device),
        users=tuple(seen),
    )


def _pairs_of(comparisons: EmbeddedComparisons, users: list[str], device: torch.device) -> PreferencePairs:
    """Select the comparisons of these users, who are numbered in this order."""
    number = {user: index for index, user in enumerate(users)}
    rows = [row for row, user in enumerate(comparisons.annotators) if user in number]
    return PreferencePairs(
        chosen_ND=comparisons.chosen_ND[rows].to(device),
        rejected_ND=comparisons.rejected_ND[rows].to(device),
        prompts_ND=comparisons.prompts_ND[rows].to(device),
        users_N=torch.tensor([number[comparisons.annotators[row]] for row in rows], dtype=torch.int64, device=device),
    )


# --- training and measuring -------------------------------------------------------------------------------------------


def _train_one(head: Head, parts: _Parts, spec: RewardTrainSpec, *, on_step: OnStep) -> TrainedHead:
    """Train any head with the recipe's optimiser, steps and seed."""
    fresh = build_head(head, parts.training, len(parts.users), spec.recipe.seed)
    return train_head(fresh, parts.training, parts.validation, recipe=spec.recipe, on_step=on_step)


def _train_baseline(
    trained: TrainedHead, parts: _Parts, spec: RewardTrainSpec, *, progress: JobProgress
) -> PreferenceHead:
    """Train the single-preference head on the same features and steps; return the head itself where it is one."""
    head = spec.recipe.head
    if isinstance(head, BradleyTerry):
        return trained.head
    done = progress.total - spec.recipe.steps
    single = BradleyTerry(projector=head.projector, width=head.width)
    return _train_one(single, parts, spec, on_step=lambda step, _: progress.update(done + step, "baseline")).head


def _measure(heads: HeadAndBaseline, parts: _Parts, spec: RewardTrainSpec) -> tuple[RewardAccuracy, ...]:
    """Measure seen users, then unseen users by number of labels; a row without comparisons is left out."""
    recipe = spec.recipe
    rows = (seen_users(heads, parts.seen_tests),) if len(parts.seen_tests) else ()
    if not len(parts.unseen_labels) or not len(parts.unseen_tests):
        return rows
    return rows + unseen_users(
        heads,
        parts.unseen_labels,
        parts.unseen_tests,
        labels_per_user=recipe.labels_per_user,
        few_shot=recipe.few_shot,
        seed=recipe.seed,
    )


def _mean_mixture(head: PreferenceHead) -> tuple[float, ...]:
    """Average the taste: every seen user counts once."""
    with torch.no_grad():
        weights_K = head.mixture(torch.arange(len(head.user_logits_UK), device=head.user_logits_UK.device)).mean(dim=0)
    return tuple(weights_K.tolist())


def _result_of(
    paths: JobPaths,
    spec: RewardTrainSpec,
    parts: _Parts,
    trained: TrainedHead,
    *,
    mixture: tuple[float, ...],
    accuracies: tuple[RewardAccuracy, ...],
) -> RewardTrainResult:
    """Describe the finished output folder."""
    for row in accuracies:
        logger.info(
            "%s users, %d labels: %.3f (%.3f)", row.users, row.labels_per_user, row.accuracy, row.baseline_accuracy
        )
    return RewardTrainResult(
        uri="",
        spec_digest=spec.digest,
        judge_digest=content_digest(paths.out / JUDGE_DIR),
        head_digest=content_digest(paths.out / HEAD_DIR),
        steps=spec.recipe.steps,
        best_step=trained.best_step,
        num_pairs=len(parts.training),
        num_users=len(parts.users),
        mixture=mixture,
        final_metrics=trained.metrics,
        accuracies=accuracies,
    )


if __name__ == "__main__":
    run_job(main)
