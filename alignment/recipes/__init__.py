"""Recipes: one TOML file of science per reproducible run."""
