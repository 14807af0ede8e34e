"""Draw images, score them, and write the tables that the gate reads."""

__all__ = [
    "contact_sheet",
    "model_images",
    "models",
    "partial_scores",
    "record",
    "reward_accuracy",
    "sampling",
    "scoring",
]
