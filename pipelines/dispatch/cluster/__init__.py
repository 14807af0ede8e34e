"""A job on the nodes of a Ray cluster: its driver, its ranks, and all that outlives them, kept in the object store."""
