"""Airflow and MLflow embedded on one host, the demo, and `doctor`."""

__all__ = ["dag_states", "demo", "doctor", "foreground", "services"]
