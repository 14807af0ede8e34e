"""Model families: encode, predict, decode, draw."""

__all__ = ["ancestral", "drawing", "float32_parts", "interface", "model_files", "noise_schedule"]
