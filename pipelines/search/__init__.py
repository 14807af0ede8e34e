"""The recipe search: short trials within the user's limits, ranked; the best becomes a recipe file."""

__all__ = ["ranking", "recipe_search"]
