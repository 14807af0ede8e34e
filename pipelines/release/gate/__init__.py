"""The verdict on a candidate, from a report and its score table alone; the decisions that were made."""
