"""Engines that run jobs: one file and one catalogue entry each."""
