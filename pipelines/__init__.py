"""The control plane: what is done, and in which order. Stages that Airflow and the command line call; no torch."""
