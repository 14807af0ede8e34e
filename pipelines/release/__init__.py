"""A model goes out, or does not: gate, promotion, registration, champion, pages."""

__all__ = [
    "awaiting",
    "champion",
    "compare_versions",
    "gate",
    "judge_candidate",
    "pages",
    "promotion",
    "registration",
    "status",
]
