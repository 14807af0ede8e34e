"""Set up the templates of a self-contained HTML page and put pictures into it."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page_environment(folder: Path) -> Environment:
    """Return the environment of the templates in `folder`, which may also include `style.css` of this room.

    HTML is escaped, and an unknown name is an error.
    """
    loader = FileSystemLoader([folder, Path(__file__).parent])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture of the media type `kind` as a data URI, so that the page needs no other file."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
