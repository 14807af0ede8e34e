"""Model families: encode, predict, decode, draw."""

__all__ = ["ancestral", "drawing", "interface", "model_files", "noise_schedule", "repeated_blocks"]
