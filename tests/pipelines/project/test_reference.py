"""The page docs/configuration.md matches the models, and every field has a docstring."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from alignment.contracts.values import Record
from pipelines.project import reference
from pipelines.project.file import Project
from pipelines.project.reference import Table, _field_docstrings, tables

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
TABLES = {table.model: table for table in tables(Project, "")}


class Inner(Record):
    """One part."""

    share: float = 0.5
    """A share."""


class Outer(Record):
    """A table. More of it.

    Not on the page.
    """

    size: int
    """Width, in
    pixels."""
    inner: Inner = Inner(share=0.25)
    unknown: str = ""


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == reference.reference(), "run `make docs-reference`"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.heading)
def test_every_field_of_a_project_has_a_docstring(table: Table) -> None:
    docs = _field_docstrings(table.model)
    assert [name for name in table.model.model_fields if not docs.get(name)] == []
    assert [text for text in docs.values() if text.split()[0] in {"What", "Whether", "How", "Who", "Why"}] == []


def test_docstrings_of_fields_are_one_line_and_a_missing_one_is_found() -> None:
    assert _field_docstrings(Outer) == {"size": "Width, in pixels."}
    assert _field_docstrings(Inner) == {"share": "A share."}


def test_a_row_has_type_default_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    headings: dict[type[BaseModel], str] = {Outer: "outer", Inner: "outer.inner"}
    assert reference._table_text(Table("outer", Outer), headings).splitlines()[1:] == [
        "## outer",
        "",
        "A table. More of it.",
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
        "| `size` | integer | required | Width, in pixels. |",
        "| `inner` | [table](#outerinner) | `{ share = 0.25 }` |  |",
        '| `unknown` | text | `""` |  |',
    ]


def test_tables_of_a_project_are_in_the_order_of_its_fields() -> None:
    found = list(dict.fromkeys(re.split("[.:]", table.heading)[0] for table in tables(Project, "")))
    nested = [name for name in Project.model_fields if name not in ("name", "path")]
    assert found == ["Top level", *nested]
    assert set(reference.EXPLAINED) <= set(nested)


def test_types_are_written_in_plain_words() -> None:
    text = PAGE.read_text()
    for row in (
        "| `uri` | path or URI | required |",
        "| `recipe` | recipe name or path | required |",
        "| `train` | cron | none |",
        '| `reconcile` | schedule | `"@hourly"` |',
        "| `max_quarantined_share` | number, ≥ 0, ≤ 1 | `0.2` |",
        "| `name` | text, `^[a-z][a-z0-9_]{0,40}$` | required |",
        "| `factors` | table, each value [number, > 0, number, > 0] |",
    ):
        assert row in text
