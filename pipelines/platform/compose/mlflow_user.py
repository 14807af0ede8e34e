"""Make the user that tasks and jobs log in to MLflow as: `python -m pipelines.platform.compose.mlflow_user NAME`.

Run again it sets the password that is in the environment now. MLflow's own client is not needed for two requests.
"""

import os
import sys
from collections.abc import Mapping

import httpx

TIMEOUT_SECONDS = 60


def ensure_user(name: str, environ: Mapping[str, str]) -> str:
    """Create the user, or set the password of the existing one; return "created" or "updated".

    The administrator logs in with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; the user's password is
    MLFLOW_NEW_PASSWORD. RuntimeError has MLflow's own message when it refuses.
    """
    login = (environ["MLFLOW_TRACKING_USERNAME"], environ["MLFLOW_TRACKING_PASSWORD"])
    given = {"username": name, "password": environ["MLFLOW_NEW_PASSWORD"]}
    url = f"{environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users"
    with httpx.Client(auth=login, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        found = client.get(f"{url}/get", params={"username": name})
        if found.status_code == 404:
            _check(client.post(f"{url}/create", json=given))
            return "created"
        _check(found)
        _check(client.patch(f"{url}/update-password", json=given))
    return "updated"


def _check(response: httpx.Response) -> None:
    if response.is_error:
        raise RuntimeError(f"MLflow at {response.url} gave {response.status_code}: {response.text[:300]}")


if __name__ == "__main__":
    sys.stdout.write(f"{sys.argv[1]}: {ensure_user(sys.argv[1], os.environ)}\n")
