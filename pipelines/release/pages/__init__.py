"""Pages for people: the gate's report, the model card, the candidate's page in MLflow."""
