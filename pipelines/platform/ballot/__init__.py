"""The ballot page: a person compares images of two models, blind, in a browser on this host."""
