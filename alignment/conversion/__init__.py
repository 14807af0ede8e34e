"""Conversion of published judge weights to the folders that the scorers load."""
