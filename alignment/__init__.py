"""How to do it: the science. It reads local folders and JSON, and knows no airflow, mlflow or boto3."""
