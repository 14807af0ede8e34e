"""The tables of `plumbline status` and `plumbline doctor`."""

from typing import Any

from pipelines.commands.rows import check_rows, status_rows

AIRFLOW = {"reachable": True, "url": "http://airflow", "paused_dags": ["a.train"], "missing_dags": [], "problem": ""}


def shown(value: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["part"]: (row["state"], row["detail"]) for row in status_rows(value)}


def test_each_part_has_a_row() -> None:
    value = {
        "project": "a",
        "champion": {"version": 2, "weights_digest": "4fc8b8d3e5d3" + "0" * 52, "warning": "It is worse."},
        "previous_champion": None,
        "candidate": None,
        "last_decision": {"verdict": "hold", "candidate_version": 3, "report_uri": "file:///r.html", "digest": "d"},
        "data_report": {"snapshot_digest": "d", "num_pairs": 7, "report_uri": "file:///d.html", "page": ""},
        "ledger": {"entries": 4, "agrees_with_aliases": True},
        "compute": {"gpu_hours": 1.5, "cpu_hours": 0.0, "cost": {"EUR": 3.75}},
        "problems": [],
        "airflow": AIRFLOW,
    }
    assert shown(value) == {
        "project": ("a", ""),
        "champion": ("version 2", "weights 4fc8b8d3e5d3. It is worse."),
        "previous champion": ("none", ""),
        "candidate": ("none", ""),
        "last decision": ("hold", "version 3, file:///r.html"),
        "data report": ("7 pairs", "file:///d.html"),
        "ledger": ("4 moves", "agrees with the aliases of MLflow"),
        "compute": ("1.5 GPU-hours, 0 CPU-hours, 3.75 EUR", ""),
        "airflow": ("http://airflow", "paused: a.train"),
    }
    shown_in = {**value["data_report"], "page": "https://mlflow/r"}
    assert shown({**value, "data_report": shown_in})["data report"] == ("7 pairs", "https://mlflow/r")
    nothing = {"champion": None, "last_decision": None, "data_report": None}
    new = {**value, **nothing, "ledger": {"entries": None, "agrees_with_aliases": False}}
    rows = shown({**new, "airflow": {**AIRFLOW, "paused_dags": []}})
    assert rows["champion"] == ("none, the base model is used", "")
    assert rows["last decision"] == rows["data report"] == ("none", "")
    assert rows["ledger"][0] == "problem"
    assert rows["airflow"][1] == "no DAG is paused or missing"


def test_a_store_that_cannot_be_reached_leaves_its_problem() -> None:
    away = {**AIRFLOW, "reachable": False, "problem": "Airflow is off."}
    assert shown({"project": "a", "problems": ["There is no store."], "airflow": away}) == {
        "project": ("a", ""),
        "airflow": ("not reachable", "Airflow is off."),
        "problem": ("problem", "There is no store."),
    }


def test_a_fault_has_its_fix_below_it() -> None:
    checks = [
        {"name": "base_model", "ok": False, "found": "It lacks unet/.", "fix": "Add it."},
        {"name": "gate", "ok": True, "found": "5 prompts; WARNING: no guard", "fix": ""},
        {"name": "store", "ok": True, "found": "good", "fix": ""},
    ]
    assert check_rows(checks) == [
        {"check": "base model", "result": "fault", "found": "It lacks unet/.\nFix: Add it."},
        {"check": "gate", "result": "warning", "found": "5 prompts; WARNING: no guard"},
        {"check": "store", "result": "ok", "found": "good"},
    ]
