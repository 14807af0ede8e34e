"""The checks of `plumbline doctor`: one file for each family."""
