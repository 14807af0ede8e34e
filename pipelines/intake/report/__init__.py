"""The data report of a snapshot: figures, rows set aside, drift, the page, and the series of a project's snapshots."""
