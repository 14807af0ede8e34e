"""Airflow and MLflow embedded on one host, the demo, `doctor`, and the exporter of metrics."""

__all__ = [
    "airflow_setup",
    "dag_states",
    "demo",
    "doctor",
    "exporter",
    "foreground",
    "reachable",
    "services",
]
