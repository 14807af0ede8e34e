"""Parts of HTML pages that several rooms write: the style, the template environment, pictures inside a page."""

__all__ = ["page"]
