"""Rows of the tables that `plumbline status`, `plumbline doctor` and `plumbline plan` print at a terminal."""

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

_VERSIONS = {"champion": "none, the base model is used", "previous_champion": "none", "candidate": "none"}


def check_rows(checks: list[dict[str, Any]]) -> list[Row]:
    """Return the rows of a table for a person: check, result, and what was found with the fix of a fault."""
    rows = []
    for check in checks:
        result = "fault" if not check["ok"] else "warning" if "WARNING:" in check["found"] else "ok"
        fix = f"\nFix: {check['fix']}" if check["fix"] else ""
        rows.append({"check": check["name"].replace("_", " "), "result": result, "found": f"{check['found']}{fix}"})
    return rows


def status_rows(value: dict[str, Any]) -> list[Row]:
    """Return a row for each part of a status, with the fields part, state and detail; problems come last."""
    rows = [_row("project", value["project"])]
    if "champion" in value:
        rows += _release_rows(value)
    rows.append(_airflow_row(value["airflow"]))
    return [*rows, *(_row("problem", "problem", problem) for problem in value["problems"])]


def plan_rows(recipes: list[dict[str, Any]]) -> list[Row]:
    """Return a row for each recipe, placement and card of a plan; memory in GiB."""
    return [
        _plan_row(recipe["recipe"], placement, card)
        for recipe in recipes
        for placement in recipe["placements"]
        for card in placement["cards"]
    ]


def _plan_row(recipe: str, placement: dict[str, Any], card: dict[str, Any]) -> Row:
    changes = ", ".join(f"{name} = {value}" for name, value in placement["settings"].items())
    return {
        "recipe": recipe,
        "placement": changes or "as written",
        "gpu": f"{card['gpu']}, {card['memory_gib']:g} GiB",
        "weights": placement["weights"] + placement["reference"],
        "gradients": placement["gradients"],
        "optimiser": placement["optimiser"],
        "activations": placement["activations"] + placement["copies"],
        "reserve": placement["reserve"],
        "total": placement["total"],
        "batch": f"{placement['micro_batch']}{'' if card['fits'] else ' (too large)'}",
        "holds": card["largest_micro_batch"],
        "pairs/s": card["pairs_per_second"],
        "pace": _origin_of_pace(card),
        "GPU-hours": card["gpu_hours"],
        "cost": None if card["cost"] is None else f"{card['cost']:.0f} {card['currency']}",
    }


def _origin_of_pace(card: dict[str, Any]) -> str:
    """Return where the pace comes from, and if it misses the deadline. A measured one is that of the micro-batch and
    the memory beside it.
    """
    if card["pairs_per_second"] is None:
        return ""
    late = "; later than deadline_hours" if card["late"] else ""
    if (measured := card["measured"]) is None:
        return f"estimated{late}"
    memory = f"micro-batch {measured['micro_batch']}, {measured['peak_gib']:g} GiB"
    return f"measured on {measured['gpu']}, {measured['on']}, job {measured['job_id']}: {memory}{late}"


def _row(part: str, state: str, detail: str = "") -> Row:
    return {"part": part, "state": state, "detail": detail}


def _release_rows(value: dict[str, Any]) -> Iterator[Row]:
    for name, without in _VERSIONS.items():
        yield _version_row(name.replace("_", " "), value[name], without)
    decision = value["last_decision"]
    if decision is None:
        yield _row("last decision", "none")
    else:
        detail = f"version {decision['candidate_version']}, {decision['report_uri']}"
        yield _row("last decision", decision["verdict"], detail)
    if (data := value["data_report"]) is None:
        yield _row("data report", "none")
    else:
        yield _row("data report", f"{data['num_pairs']} pairs", data["page"] or data["report_uri"])
    yield _ledger_row(value["ledger"])
    yield _row("compute", _compute(value["compute"]))


def _version_row(part: str, version: dict[str, Any] | None, without: str) -> Row:
    if version is None:
        return _row(part, without)
    warning = f". {version['warning']}" if "warning" in version else ""
    return _row(part, f"version {version['version']}", f"weights {str(version['weights_digest'])[:12]}{warning}")


def _ledger_row(ledger: dict[str, Any]) -> Row:
    if not ledger["agrees_with_aliases"]:
        return _row("ledger", "problem", "it does not agree with the aliases of MLflow")
    return _row("ledger", f"{ledger['entries']} moves", "agrees with the aliases of MLflow")


def _compute(compute: dict[str, Any]) -> str:
    hours = [f"{compute[f'{device}_hours']:.3g} {device.upper()}-hours" for device in ("gpu", "cpu")]
    return ", ".join([*hours, *(f"{cost:.2f} {currency}" for currency, cost in compute["cost"].items())])


def _airflow_row(airflow: dict[str, Any]) -> Row:
    if not airflow["reachable"]:
        return _row("airflow", "not reachable", airflow["problem"])
    found = [f"{word}: {', '.join(ids)}" for word in ("paused", "missing") if (ids := airflow[f"{word}_dags"])]
    return _row("airflow", airflow["url"], "; ".join(found) or "no DAG is paused or missing")
