"""The training loop: batches, updates, checkpoints, metrics, soups, reward models."""

__all__ = [
    "adaptive",
    "embeddings",
    "loop",
    "metrics",
    "offline",
    "offline_update",
    "online",
    "reference",
    "reference_errors",
    "reward_model",
    "seeding",
    "soup",
    "update",
]
