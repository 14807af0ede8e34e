"""Templates escape text from outside, and know the style of all pages."""

import base64
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from pipelines.pages.page import data_uri, page_environment


def test_text_is_escaped_and_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text("<p>{{ text }}</p>")
    template = page_environment(tmp_path).get_template("page.html.j2")
    assert template.render(text="<script>") == "<p>&lt;script&gt;</p>"
    with pytest.raises(UndefinedError):
        template.render()


def test_every_folder_of_templates_has_the_style(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text('<style>{% include "style.css" %}</style>')
    assert "main { max-width" in page_environment(tmp_path).get_template("page.html.j2").render()


def test_a_picture_is_written_into_the_page() -> None:
    head, _, rest = data_uri(b"\x89PNG", "image/png").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(rest) == b"\x89PNG"
