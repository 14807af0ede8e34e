"""A model goes out, or does not: gate, promotion, registration, champion, pages."""

__all__ = ["awaiting", "champion", "gate", "judge_candidate", "pages", "promotion", "registration", "status"]
