"""The champion against the pairs that arrived since its training, drift, and the judges' state."""

__all__ = ["canary", "judges", "report"]
