"""Labels and captions that are made: judges, heuristics, a label model, captioners, perturbed prompts."""

__all__ = ["captioned_pairs", "captioner_files", "captions", "heuristics", "labels", "write_labels"]
