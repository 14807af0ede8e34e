"""Model families: encode, predict, decode, draw."""

__all__ = ["ancestral", "drawing", "interface", "noise_schedule"]
