"""Find parts of the platform that do not run or give no sign of life."""

import importlib.util
from typing import Any

from pipelines.settings import Settings

TIMEOUT_SECONDS = 5
_UNHEALTHY = "Airflow's {name} gives no sign of life since {since}. Until it runs again, {effect}."
_EFFECTS = {
    "metadatabase": "nothing works",
    "scheduler": "no task starts",
    "triggerer": "tasks that wait for a job stay deferred, even when the job has finished",
    "dag_processor": "changes of projects and DAGs are not noticed",
}


def describe_platform(settings: Settings) -> str:
    """Describe the embedded platform, or the Airflow that is configured; ValueError names the parts that do not run."""
    if importlib.util.find_spec("httpx") is None:
        return "unknown: httpx is not installed here"
    from pipelines.platform import services

    platform = services.read_platform(settings)
    if settings.airflow_ui_url:
        return _ask(settings.airflow_ui_url)
    if platform is None:
        return "the embedded platform is not running here, and no other Airflow is configured"
    if dead := platform.dead():
        raise ValueError(
            " ".join(f"{part.name} has ended (pid {part.process.pid}, log {part.log_path})." for part in dead)
        )
    return _ask(platform.airflow.url)


def _ask(url: str) -> str:
    import httpx

    try:
        parts = httpx.get(f"{url}/api/v2/monitor/health", timeout=TIMEOUT_SECONDS, trust_env=False).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"Airflow at {url} does not respond: {error}") from error
    if silent := [problem for name in _EFFECTS if (problem := _problem(name, parts.get(name)))]:
        raise ValueError(" ".join(silent))
    return f"{url}: scheduler, triggerer and dag-processor are alive"


def _problem(name: str, part: dict[str, Any] | None) -> str:
    """Describe an unhealthy part; empty for a healthy one, and for one that this Airflow does not have."""
    if not part or part.get("status") in (None, "healthy"):
        return ""
    since = part.get(f"latest_{name}_heartbeat") or "the start"
    return _UNHEALTHY.format(name=name.replace("_", "-"), since=since, effect=_EFFECTS[name])
