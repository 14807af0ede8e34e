"""`plumbline up`: run the embedded platform in the foreground."""

import logging
import signal
import sys
import threading

from pipelines.platform import services, supervision
from pipelines.platform.preparation import prepare_airflow
from pipelines.settings import load_settings

log = logging.getLogger(__name__)


def stay_up(*, mlflow_port: int, airflow_port: int) -> int:
    """Start both servers, print their addresses, wait for Ctrl-C, SIGTERM or `plumbline down`, stop everything."""
    settings = load_settings()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    platform = services.start(settings, mlflow_port=mlflow_port, airflow_port=airflow_port)
    try:
        prepare_airflow(settings, platform)
        password = services.admin_password(settings)
        sys.stderr.write(
            f"Airflow  {platform.airflow.url}   user admin, password {password}\n"
            f"MLflow   {platform.mlflow.url}\n"
            f"To run stages by hand: export MLFLOW_TRACKING_URI={platform.mlflow.url}\n"
            "Ctrl-C or `make down` stops both.\n"
        )
        watch = supervision.Supervision(settings)
        while watch.check() and not stop.wait(1):
            pass
        return 0
    finally:
        services.stop(settings)
