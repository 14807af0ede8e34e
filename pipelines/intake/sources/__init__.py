"""Sources of pairs: one file and one catalogue entry each."""
