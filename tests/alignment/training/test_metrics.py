"""metrics.jsonl: appended, cut back, averaged."""

import json
from pathlib import Path

import pytest

from alignment.contracts.jobs import MetricsLine
from alignment.training.metrics import append_metrics, cut_back, final_means, read_lines


def test_lines_match_the_contract_and_are_cut_back(tmp_path: Path) -> None:
    for step in range(1, 6):
        append_metrics(tmp_path, step, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    lines = [MetricsLine.model_validate_json(line) for line in path.read_text().splitlines()]
    assert [line.metrics["loss"] for line in lines] == [1.0, 2.0, 3.0, 4.0, 5.0]
    cut_back(path, 3)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
    cut_back(path, -1)
    assert path.read_text() == ""
    cut_back(tmp_path / "none", 3)


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "metr')
    assert read_lines(path) == [{"step": 1}]
    cut_back(path, 5)
    assert path.read_text() == '{"step": 1}\n'


def test_final_means_are_over_the_last_tenth(tmp_path: Path) -> None:
    for step in range(1, 41):
        append_metrics(tmp_path, step, {"loss": float(step)})
    assert final_means(tmp_path, 40) == {"loss": pytest.approx(38.5)}


def test_final_means_of_a_metric_that_is_not_in_every_line(tmp_path: Path) -> None:
    """Also after a resume, when earlier lines hold a metric that is no longer written."""
    for step in range(1, 41):
        more = {"gain": float(step)} if step in (38, 40) else {"former": 1.0} if step < 39 else {}
        append_metrics(tmp_path, step, {"loss": 1.0, **more})
    assert final_means(tmp_path, 40) == {"loss": 1.0, "gain": 39.0}


def test_sparse_logging_leaves_at_least_the_last_line(tmp_path: Path) -> None:
    append_metrics(tmp_path, 1, {"loss": 9.0})
    append_metrics(tmp_path, 10, {"loss": 4.0})
    assert final_means(tmp_path, 10) == {"loss": 4.0}
    assert final_means(tmp_path / "empty", 10) == {}


def test_a_metric_of_the_last_step_alone_is_kept_as_it_is(tmp_path: Path) -> None:
    for step in range(1, 21):
        append_metrics(tmp_path, step, {"loss": float(step)} | ({"ratio": 7.0} if step == 20 else {}))
    assert final_means(tmp_path, 20) == {"loss": pytest.approx(19.5), "ratio": 7.0}


def test_final_means_leave_out_the_health_of_the_host(tmp_path: Path) -> None:
    append_metrics(tmp_path, 1, {"loss": 2.0, "health/idle_share": 0.5})
    assert final_means(tmp_path, 1) == {"loss": 2.0}
