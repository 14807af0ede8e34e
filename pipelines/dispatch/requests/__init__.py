"""The requests of each kind of job, from the project and the value objects that a job reads."""
