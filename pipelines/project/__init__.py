"""The project file: its sections, policies and consistency."""

__all__ = [
    "approval",
    "captions",
    "columns",
    "file",
    "gate",
    "paths",
    "public_data_sets",
    "recipe_choice",
    "recipe_swap",
    "schedules",
    "search",
    "sections",
    "slots",
    "template",
]
