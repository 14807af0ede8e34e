"""A plan uses the pace of a finished training of the same work on the same card, and names it; of no other."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from made_requests import made_request

from alignment.contracts.jobs import Placement, TrainingPace
from alignment.contracts.reference_errors import reference_spec
from alignment.contracts.training import Recipe, TrainSpec
from pipelines.contracts.jobs import JobInput, JobRecord
from pipelines.dispatch.cached_digests import folder_fingerprint
from pipelines.dispatch.sizing import measured, plan
from pipelines.project.file import load_project
from pipelines.project.sections import RecipeSection
from pipelines.records.jobs import record_uris, save_record
from pipelines.settings import Settings
from pipelines.store.storage import Store
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[4]
CACHE = "c" * 64
H200 = {
    "device": "NVIDIA H200",
    "num_processes": 1,
    "micro_batch": 4,
    "checkpointed_every": 0,
    "steps": 50,
    "pairs_per_second": 12.5,
    "peak_gib": 3.75,
    "finished_at": datetime(2026, 11, 29, 8, tzinfo=UTC),
}
OWN: dict[str, Any] = {"micro_batch": 4}
RECIPE = "diffusion_dpo_shapes"


def workspace_of(settings: Settings, *overrides: str, **train: Any) -> Workspace:
    """The shapes project with one recipe and one placement."""
    project = load_project(ROOT / "projects/shapes.toml")
    changes = {
        "train": (RecipeSection(recipe=RECIPE, overrides=("precision='bf16'", "global_batch=8", *overrides)),),
        "placement": project.placement.model_copy(update={"train": Placement(**(OWN | train))}),
    }
    return Workspace(project.model_copy(update=changes), settings)


def keep_run(
    workspace: Workspace,
    *,
    recipe: dict[str, Any] | None = None,
    placement: dict[str, Any] | None = None,
    base_digest: str = "",
    inputs: Sequence[JobInput] = (),
    generation: int = 0,
    **pace: Any,
) -> TrainSpec:
    """Keep the record of a finished training of the project's recipe in its placement; return its spec."""
    (own,) = workspace.project.recipes()
    fields = own.model_dump(mode="json") | (recipe or {})
    digest = base_digest or folder_fingerprint(ROOT / workspace.project.base.uri, workspace.settings.state_dir / "own")
    spec = TrainSpec(recipe=Recipe.model_validate(fields), base_digest=digest, cache_digest=CACHE)
    request = made_request(
        project=workspace.project.name,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
        placement=workspace.project.placement.train.model_copy(update=placement or {}),
        inputs=tuple(inputs),
        generation=generation,
    )
    measured_pace = TrainingPace.model_validate(H200 | pace)
    save_record(workspace.store, JobRecord(request=request, device="gpu", attempts=1, seconds=60, pace=measured_pace))
    return spec


def card_of(workspace: Workspace, card: str = "h200") -> plan.CardPlan:
    """The plan of the placement as written."""
    (own,) = plan.plan_project(workspace, card)
    return own.placements[0].cards[0]


def test_the_measured_pace_replaces_the_estimate_and_names_its_job(settings: Settings) -> None:
    workspace = workspace_of(settings)
    estimated = card_of(workspace)
    assert estimated.measured is None
    spec = keep_run(workspace)
    found = card_of(workspace)
    assert found.pairs_per_second == 12.5 != estimated.pairs_per_second
    assert found.gpu_hours == pytest.approx(spec.recipe.steps * 8 / 12.5 / 3600)
    assert found.measured is not None
    assert found.measured.model_dump(mode="json") == {
        "gpu": "NVIDIA H200",
        "job_id": f"{workspace.project.name}-train-{spec.digest[:12]}-g0",
        "on": "2026-11-29",
        "micro_batch": 4,
        "pairs_per_second": 12.5,
        "peak_gib": 3.75,
    }


def test_rates_seeds_and_steps_are_the_same_work(settings: Settings) -> None:
    workspace = workspace_of(settings)
    keep_run(workspace, recipe={"seed": 99, "steps": 7, "name": "other", "max_grad_norm": 0.5})
    assert card_of(workspace).measured is not None


@pytest.mark.parametrize(
    "recipe",
    [
        {"precision": "fp32"},
        {"precision": "fp16"},
        {"frozen_weights": "bf16"},
        {"global_batch": 16},
        {"objective": {"name": "mapo"}},
        {"tuning": {"kind": "lora", "rank": 4, "alpha": 4}},
        {"optimiser": {"kind": "adafactor", "learning_rate": 1e-4}},
        {"backbone": {"name": "stable_diffusion", "resolution": 128}},
        {"images": {"kind": "aspect_buckets"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_work_is_not_claimed(settings: Settings, recipe: dict[str, Any]) -> None:
    workspace = workspace_of(settings)
    keep_run(workspace, recipe=recipe)
    assert card_of(workspace).measured is None


@pytest.mark.parametrize(
    "pace",
    [
        {"device": "NVIDIA H100 80GB HBM3"},
        {"device": "NVIDIA H200 MIG 1g.18gb"},
        {"device": "NVIDIA H200 NVL"},
        {"device": "cpu"},
        {"micro_batch": 8},
        {"num_processes": 2},
        {"checkpointed_every": 1},
    ],
    ids=lambda changes: " ".join(map(str, *changes.items())),
)
def test_a_figure_of_another_card_or_placement_is_not_claimed(settings: Settings, pace: dict[str, Any]) -> None:
    workspace = workspace_of(settings, gradient_checkpointing="none")
    keep_run(workspace, **pace)
    assert card_of(workspace).measured is None


@pytest.mark.parametrize(
    "placement",
    [{"sharding": "fsdp2"}, {"compile_blocks": True}, {"channels_last": True}, {"fused_optimiser": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_run_with_other_settings_of_pace_is_not_claimed(settings: Settings, placement: dict[str, Any]) -> None:
    workspace = workspace_of(settings)
    keep_run(workspace, placement=placement)
    assert card_of(workspace).measured is None


def test_another_card_keeps_its_estimate(settings: Settings) -> None:
    workspace = workspace_of(settings)
    before = card_of(workspace, "h100")
    keep_run(workspace)
    assert card_of(workspace, "h100") == before


def test_a_base_with_other_weights_is_not_the_same_base(settings: Settings) -> None:
    workspace = workspace_of(settings)
    keep_run(workspace, base_digest="b" * 64)
    assert card_of(workspace).measured is None


def test_a_base_that_is_not_here_is_known_by_its_pinned_uri(settings: Settings) -> None:
    workspace, uri, digest = workspace_of(settings), f"hub://owner/name@{'0' * 40}", "b" * 64
    base = workspace.project.base.model_copy(update={"uri": uri})
    away = Workspace(workspace.project.model_copy(update={"base": base}), settings)
    keep_run(workspace, base_digest=digest, inputs=[JobInput(content_digest=digest, uri=f"{uri[:-1]}1")])
    assert card_of(away).measured is None
    keep_run(workspace, base_digest=digest, inputs=[JobInput(content_digest=digest, uri=uri)], generation=1)
    assert card_of(away).measured is not None


def test_the_newest_run_counts(settings: Settings) -> None:
    workspace = workspace_of(settings)
    for generation, day, pace in ((0, 3, 3.0), (1, 5, 5.0), (2, 4, 4.0)):
        finished = datetime(2026, 11, day, tzinfo=UTC)
        keep_run(workspace, generation=generation, finished_at=finished, pairs_per_second=pace)
    assert card_of(workspace).pairs_per_second == 5.0


def test_what_the_job_chooses_is_taken_from_a_run_that_chose_as_well(settings: Settings) -> None:
    fixed, auto = workspace_of(settings), workspace_of(settings, auto=True)
    keep_run(auto, micro_batch=8, checkpointed_every=1)
    assert card_of(fixed).measured is None
    found = card_of(auto)
    assert found.measured is not None
    assert (found.measured.micro_batch, found.largest_micro_batch) == (8, 8)


def test_a_run_that_held_the_batch_shows_that_it_fits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "largest_micro_batch", lambda *_: 0)
    small = plan.CARDS["h200"].model_copy(update={"memory_gib": 0.1})
    monkeypatch.setitem(plan.CARDS, "h200", small)  # type: ignore[arg-type]
    workspace = workspace_of(settings)
    assert (card_of(workspace).fits, card_of(workspace).pairs_per_second) == (False, None)
    monkeypatch.setattr(measured, "find_card", lambda _: small)
    keep_run(workspace)
    found = card_of(workspace)
    assert (found.fits, found.largest_micro_batch, found.pairs_per_second) == (True, 4, 12.5)


def test_a_run_that_was_given_the_errors_of_the_base_did_less_work(settings: Settings) -> None:
    workspace = workspace_of(settings, "precision='fp32'")
    spec = keep_run(workspace)
    assert card_of(workspace).measured is not None
    wanted = reference_spec(spec)
    assert wanted is not None
    errors = JobInput(content_digest="e" * 64, uri="file:///errors", alias=wanted.key)
    keep_run(workspace, inputs=[errors])
    assert card_of(workspace).measured is None, "the record of the first run is replaced"


def test_records_of_other_versions_and_without_a_pace_are_passed_over(settings: Settings) -> None:
    workspace = workspace_of(settings)
    spec = keep_run(workspace)
    for generation, changed in ((1, {"spec": {"version": 0}}), (2, {"spec": spec.model_dump(mode="json")})):
        request = made_request(project=workspace.project.name, generation=generation, **changed)
        save_record(workspace.store, JobRecord(request=request, device="gpu", attempts=1, seconds=1))
    assert card_of(workspace).measured is not None


def test_a_store_that_cannot_be_read_leaves_the_estimates(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Store, prefix_uri: str) -> list[str]:
        raise ConnectionError("s3://bucket: no route to host")

    workspace = workspace_of(settings)
    keep_run(workspace)
    monkeypatch.setattr(Store, "list_uris", refuse)
    found = card_of(workspace)
    assert found.measured is None
    assert found.pairs_per_second is not None
    assert "The pace of earlier trainings is not used: s3://bucket: no route to host" in caplog.text


def test_a_damaged_record_is_named_and_the_others_count(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    workspace = workspace_of(settings)
    keep_run(workspace)
    [uri] = record_uris(workspace.store, workspace.project.name, "train")
    workspace.store.write_bytes(f"{uri.rpartition('/')[0]}/damaged.json", b'{"pace": 1}')
    assert card_of(workspace).measured is not None
    assert "damaged.json cannot be read, so its pace is not used" in caplog.text


def test_a_measured_pace_that_misses_the_deadline_is_marked(settings: Settings) -> None:
    workspace = workspace_of(settings, auto=True, deadline_hours=1.0)
    (recipe,) = workspace.project.recipes()
    pairs = recipe.steps * recipe.global_batch
    keep_run(workspace, pairs_per_second=pairs / 3500)
    assert not card_of(workspace).late
    keep_run(workspace, pairs_per_second=pairs / 3700)
    assert card_of(workspace).late
