"""Airflow and MLflow embedded on one host, the demo, `doctor`, the exporter of metrics, and the ballot page."""

__all__ = [
    "airflow_setup",
    "ballot",
    "dag_states",
    "demo",
    "doctor",
    "exporter",
    "foreground",
    "reachable",
    "services",
]
