"""Metrics for Prometheus: one file per source, a catalogue of them, and the server that refreshes and serves them."""
