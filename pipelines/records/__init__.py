"""Records of jobs, judges, prompts, snapshots and monitor reports in the store, as numbered series."""

__all__ = [
    "calibrations",
    "compute",
    "heldout_prompts",
    "jobs",
    "monitor_reports",
    "series",
    "snapshots",
    "trained_judges",
    "withdrawals",
]
