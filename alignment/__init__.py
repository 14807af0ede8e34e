"""The science: how a job does its work. It reads local folders and JSON, and knows no airflow, mlflow or boto3."""
