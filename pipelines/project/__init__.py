"""The project file: its sections, policies and consistency."""

__all__ = ["approval", "file", "gate", "paths", "recipe_swap", "schedules", "search", "sections", "slots"]
