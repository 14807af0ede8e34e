"""Records of jobs, judges and prompts in the store, as numbered series."""

__all__ = ["calibrations", "heldout_prompts", "jobs", "series", "trained_judges"]
