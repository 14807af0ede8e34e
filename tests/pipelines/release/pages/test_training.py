"""The run in words: curves in order, thinned by means; hours by device; the recipe with its paper."""

import math

import pytest

from alignment.config import load_recipe
from alignment.contracts.jobs import MetricsLine, Placement
from pipelines.contracts.jobs import JobRecord, JobRequest
from pipelines.release.pages.curve_plot import plot_curves
from pipelines.release.pages.training import cost_rows, curves, recipe_facts, thinned


def line(step: int, **metrics: float) -> MetricsLine:
    return MetricsLine(step=step, unix_seconds=0.0, metrics=metrics)


def record(kind: str, *, device: str, seconds: float, processes: int, attempts: int = 1) -> JobRecord:
    request = JobRequest(
        project="p",
        kind=kind,
        spec={},
        spec_digest="a" * 64,
        inputs=(),
        output_uri="file:///out",
        placement=Placement(num_processes=processes),
    )
    return JobRecord(request=request, device=device, attempts=attempts, seconds=seconds)  # type: ignore[arg-type]


def test_curves_come_in_order_without_what_is_not_finite() -> None:
    found = curves([line(1, zeta=1.0, loss=3.0), line(2, alpha=2.0, loss=math.nan), line(3, loss=1.0)])
    assert list(found) == ["loss", "alpha", "zeta"]
    assert found["loss"] == [(1.0, 3.0), (3.0, 1.0)]
    assert curves([line(1, loss=math.nan)]) == {}


def test_thinning_takes_means_of_neighbours() -> None:
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0), (4.0, 9.0)]
    assert thinned(points, 3) == [(0.5, 2.0), (2.5, 6.0), (4.0, 9.0)]
    assert thinned(points, 5) == points


def test_hours_are_wall_time_times_processes_and_a_cpu_is_no_gpu() -> None:
    rows = cost_rows(
        [
            record("encode", device="cpu", seconds=1800, processes=2),
            record("train", device="gpu", seconds=7200, processes=8, attempts=3),
        ]
    )
    assert [(row.job, row.device, row.hours) for row in rows] == [
        ("features", "CPU", "1.00"),
        ("training", "GPU", "16.00"),
        ("total, GPU-hours", "", "16.00"),
        ("total, CPU process-hours", "", "1.00"),
    ]
    assert rows[1].wall == "2 h 00 min in 3 attempts"
    alone = cost_rows([record("train", device="cpu", seconds=60, processes=1)])
    assert alone[-1].job == "total, CPU process-hours, no GPU"
    assert cost_rows([]) == []


def test_a_job_without_a_title_appears_under_the_name_of_its_kind() -> None:
    assert cost_rows([record("turn_upside_down", device="cpu", seconds=60, processes=1)])[0].job == "turn upside down"


@pytest.mark.parametrize(
    ("recipe", "method"),
    [("diffusion_dpo_shapes", "Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908)"), ("mapo_shapes", "MaPO (Hong")],
)
def test_a_recipe_is_shown_with_its_paper(recipe: str, method: str) -> None:
    facts = dict(recipe_facts(load_recipe(recipe)))
    assert facts["method"].startswith(method)
    assert facts["recipe"] == recipe
    assert "beta" in facts["settings"]
    assert "labels" not in facts
    flipped = load_recipe(recipe).model_copy(update={"flip_labels": True})
    assert dict(recipe_facts(flipped))["labels"] == "flipped, to test the gate"


def test_the_drawing_names_each_curve_and_is_the_same_twice() -> None:
    found = {"loss": [(0.0, 1.0), (1.0, 0.5)], "grad_norm": [(0.0, 2.0)]}
    svg = plot_curves(found)
    assert svg == plot_curves(found)
    assert ">loss</text>" in svg.decode()
    assert ">grad norm</text>" in svg.decode()
    assert "$" not in svg.decode()
