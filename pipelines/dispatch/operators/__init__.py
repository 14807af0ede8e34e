"""The only room of pipelines that names airflow."""
