"""The training loop: batches, updates, checkpoints, metrics, soups, reward models."""

__all__ = [
    "adaptive",
    "embeddings",
    "loop",
    "metrics",
    "offline_update",
    "online",
    "reward_model",
    "seeding",
    "soup",
    "update",
]
