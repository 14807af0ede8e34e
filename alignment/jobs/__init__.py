"""One entry point per job: `python -m alignment.jobs.NAME --spec S --inputs DIR --out DIR`."""
