"""A result becomes a model version: weights, served files, signatures, pruning."""
