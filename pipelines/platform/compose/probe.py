"""Health checks of docker-compose.yml: `python -m pipelines.platform.compose.probe NAME [PART]` exits with 1 if ill.

Each asks a real API at the name by which other services call it. MLflow's /health answers 200 while its API refuses
every client, and a server that lost its password would look healthy: a probe therefore also fails when its API
responds without credentials. Standard library only, since several checks a minute run on every host.
"""

import base64
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_SECONDS = 10
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def probe(service: str, part: str, environ: Mapping[str, str]) -> None:
    """Return when the service works; ValueError or OSError with the reason when it does not."""
    if service == "airflow":
        _airflow(part, environ["AIRFLOW_URL"])
    elif service == "mlflow":
        _mlflow(environ)
    elif service in ("ray", "ray-node"):
        _ray(environ, node=socket.gethostname() if service == "ray-node" else "")
    else:
        raise ValueError(f"Unknown service {service!r}. Known: airflow, mlflow, ray, ray-node.")


def _airflow(part: str, url: str) -> None:
    """Check one part of Airflow, which the API server reads from the part's last heartbeat."""
    health = _ask(f"{url}/api/v2/monitor/health")
    status = health.get(part, {}).get("status")
    if status != "healthy":
        raise ValueError(f"{url} reports {part} as {status}; known parts: {', '.join(sorted(health))}.")


def _mlflow(environ: Mapping[str, str]) -> None:
    url = f"{environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    login = f"{environ['MLFLOW_TRACKING_USERNAME']}:{environ['MLFLOW_TRACKING_PASSWORD']}"
    _ask(url, f"Basic {base64.b64encode(login.encode()).decode()}")
    _must_refuse(url)


def _ray(environ: Mapping[str, str], node: str) -> None:
    """Check the cluster, and that a node of this name is alive in it if one is given."""
    url = f"{environ['PLUMBLINE_RAY_ADDRESS']}/nodes?view=summary"
    summary = _ask(url, f"Bearer {environ['RAY_AUTH_TOKEN']}")["data"]["summary"]
    states = {each["hostname"]: each["raylet"].get("state") for each in summary}
    if node and states.get(node) != "ALIVE":
        raise ValueError(f"Ray does not list {node} as alive. Nodes: {states}.")
    _must_refuse(url)


def _must_refuse(url: str) -> None:
    try:
        _ask(url)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise
    raise ValueError(f"{url} responds without credentials.")


def _ask(url: str, authorization: str = "") -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


if __name__ == "__main__":
    try:
        probe(sys.argv[1], "".join(sys.argv[2:]), os.environ)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"{' '.join(sys.argv[1:])}: {error}")
