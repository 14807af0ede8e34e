"""The training loop: batches, updates, checkpoints, metrics, soups, reward models."""

__all__ = [
    "embeddings",
    "health",
    "loop",
    "metrics",
    "offline_update",
    "online",
    "reference_errors",
    "reward_model",
    "seeding",
    "soup",
    "update",
]
