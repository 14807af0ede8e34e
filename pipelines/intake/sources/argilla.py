"""Read records of Argilla: its JSON export, or the data set that it publishes as parquet.

In JSON a record has `fields` and `responses`, in parquet a column for each field and `QUESTION.responses`,
`QUESTION.responses.users` and `QUESTION.responses.status` for each question.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.intake.sources.catalogue import Argilla
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.intake.sources.reading.votes import chosen
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection


class ArgillaSource(RecordSource):
    """Reads each submitted response to one question as one person's vote. `[sources.columns]` names the fields, and
    `choice` the question.
    """

    what = "a data set of Argilla with these fields"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the layout of JSON, and that of parquet with the project's fields."""
        columns = _columns(source)
        fields = (columns.prompt, columns.image_0, columns.image_1)
        return (*Argilla.layouts, (*fields, f"{columns.choice}.responses"))

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return a pair for each response; one without a label where there is none."""
        columns = _columns(source)
        fields = record.get("fields", record)
        fields = fields if isinstance(fields, Mapping) else {}
        found = list(_responses(record, columns.choice)) or [(None, None)]
        for value, annotator in found:
            yield Pair(
                fields.get(columns.prompt),
                fields.get(columns.image_0),
                fields.get(columns.image_1),
                chosen(value, columns.choice_0, columns.choice_1, (columns.choice_tie,)),
                annotator=annotator,
                created_at=record.get("inserted_at"),
                generators=(fields.get(columns.generator_0), fields.get(columns.generator_1)),
            )


def _responses(record: Record, question: str) -> Iterator[tuple[Any, Any]]:
    """Yield (value, user) of each response that was submitted."""
    responses = record.get("responses")
    if isinstance(responses, Mapping):
        for one in _sequence(responses.get(question)):
            if isinstance(one, Mapping) and one.get("status", "submitted") == "submitted":
                yield one.get("value"), one.get("user_id")
        return
    values = _sequence(record.get(f"{question}.responses"))
    users = _sequence(record.get(f"{question}.responses.users"))
    states = _sequence(record.get(f"{question}.responses.status"))
    for place, value in enumerate(values):
        if place >= len(states) or states[place] == "submitted":
            yield value, users[place] if place < len(users) else None


def _columns(source: SourceSection) -> ColumnsSection:
    columns = source.columns
    if columns is None or not (columns.image_0 and columns.image_1 and columns.choice):
        raise ValueError(
            f"Source {source.name!r} of kind 'argilla' needs [sources.columns] with the fields prompt, image_0 and"
            " image_1, the question `choice`, and its answers choice_0 and choice_1. `plumbline sources` shows an"
            " example."
        )
    return columns


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
