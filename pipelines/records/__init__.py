"""Records of jobs, judges, prompts and monitor reports in the store, as numbered series."""

__all__ = ["calibrations", "compute", "heldout_prompts", "jobs", "monitor_reports", "series", "trained_judges"]
