"""Version of this code, by which a control plane and a cluster notice that they differ.

`python -m pipelines.dispatch.cluster.versions` prints it, after `plumbline `.
"""

import importlib.metadata


def our_version() -> str:
    """Return the version of the installed package; `source` when it runs without being installed."""
    try:
        return importlib.metadata.version("plumbline")
    except importlib.metadata.PackageNotFoundError:
        return "source"


if __name__ == "__main__":
    print(f"plumbline {our_version()}")  # noqa: T201
