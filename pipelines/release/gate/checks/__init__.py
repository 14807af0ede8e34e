"""The checks of the gate, a family in each file."""
