"""What to do: the control plane. Stages that Airflow and the command line call; no torch."""
