"""Value objects that only the control plane sees. Frozen, plain JSON."""

__all__ = ["jobs", "judges", "monitor", "pairs", "release", "store"]
