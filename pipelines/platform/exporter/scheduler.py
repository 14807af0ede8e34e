"""Airflow: heartbeats of its components, and the tasks that wait for a worker or a pool slot."""

from datetime import datetime

from pipelines.platform.dag_states import airflow_login
from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.platform.rest import AirflowApi

_TIMEOUT_SECONDS = 10
_WAITING_STATES = ("scheduled", "queued")

_HEALTHY = Metric("plumbline_airflow_healthy", "1 if Airflow reports a component as healthy, else 0.", ("component",))
_HEARTBEAT = Metric(
    "plumbline_airflow_heartbeat_timestamp_seconds", "Time of the last heartbeat of a component.", ("component",)
)
_WAITING = Metric("plumbline_airflow_waiting_tasks", "Tasks that wait for a worker or a pool slot.", ("pool",))
_OLDEST = Metric(
    "plumbline_airflow_oldest_waiting_timestamp_seconds",
    "Time since which the longest waiting of the 100 oldest tasks waits; absent if no task waits.",
    ("pool",),
)
METRICS = (_HEALTHY, _HEARTBEAT, _WAITING, _OLDEST)


def read(reading: Reading) -> list[Sample]:
    """Query the configured Airflow, or the embedded one where none is configured; RuntimeError where none is known."""
    login = airflow_login(reading.settings)
    if login is None:
        raise RuntimeError(
            "No Airflow is known. Set PLUMBLINE_AIRFLOW_UI_URL, PLUMBLINE_AIRFLOW_USER and"
            " PLUMBLINE_AIRFLOW_PASSWORD, or start the embedded platform with `plumbline up`."
        )
    url, user, password = login
    api = AirflowApi(url, user=user, password=password, attempts=1, timeout_seconds=_TIMEOUT_SECONDS)
    try:
        return [*_health(api), *_queue(api)]
    finally:
        api.close()


def _health(api: AirflowApi) -> list[Sample]:
    samples = []
    for component, found in api.health().items():
        if not found:
            continue
        samples.append(_HEALTHY.of(found["status"] == "healthy", component))
        heartbeat = found.get(f"latest_{component}_heartbeat")
        if heartbeat:
            samples.append(_HEARTBEAT.of(datetime.fromisoformat(heartbeat).timestamp(), component))
    return samples


def _queue(api: AirflowApi) -> list[Sample]:
    waiting: dict[str, list[datetime]] = {}
    for task in api.waiting_tasks(_WAITING_STATES):
        since = task["scheduled_when"] or task["queued_when"]
        waiting.setdefault(task["pool"], []).extend([datetime.fromisoformat(since)] if since else [])
    samples = [_WAITING.of(len(times), pool) for pool, times in waiting.items()]
    return samples + [_OLDEST.of(min(times).timestamp(), pool) for pool, times in waiting.items() if times]
