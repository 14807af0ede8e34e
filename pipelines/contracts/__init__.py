"""Value objects that only the control plane sees. Frozen, plain JSON."""

__all__ = ["data_report", "jobs", "judges", "monitor", "pairs", "release", "store", "withdrawals"]
