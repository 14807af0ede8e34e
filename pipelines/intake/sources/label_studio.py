"""Read a JSON export of Label Studio: tasks with two images, compared with the tag Pairwise or Choices."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.intake.sources.catalogue import LabelStudio
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import LINES, Record
from pipelines.intake.sources.reading.votes import Vote, chosen
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

_USUAL = ColumnsSection(image_0="image1", image_1="image2", choice_0="left", choice_1="right")
_LEFT, _RIGHT, _TIES = "left", "right", ("tie", "equal", "both", "same", "neither")


class LabelStudioSource(RecordSource):
    """Reads each annotation that was not cancelled as one person's vote; `[sources.columns]` names fields of `data`."""

    what = "a JSON export of Label Studio"
    suffixes = (".json", *LINES)

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the fields of a task."""
        return LabelStudio.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return a pair for each annotation of a task; one without a label where nobody compared it."""
        columns = source.columns or _USUAL
        data = record.get("data")
        data = data if isinstance(data, Mapping) else {}
        found = list(_annotations(record, columns)) or [(None, None, None)]
        for vote, annotator, time in found:
            yield Pair(
                data.get(columns.prompt),
                data.get(columns.image_0),
                data.get(columns.image_1),
                vote,
                annotator=annotator,
                created_at=time,
                generators=(data.get(columns.generator_0), data.get(columns.generator_1)),
            )


def _annotations(record: Record, columns: ColumnsSection) -> Iterator[tuple[Vote | None, Any, Any]]:
    """Yield (label, annotator, time) of each annotation."""
    annotations = record.get("annotations")
    for one in annotations if isinstance(annotations, list) else ():
        if isinstance(one, Mapping) and not one.get("was_cancelled"):
            yield _vote(one.get("result"), columns), _person(one.get("completed_by")), one.get("created_at")


def _vote(result: Any, columns: ColumnsSection) -> Vote | None:
    """Return the label of an annotation's first comparison."""
    for part in result if isinstance(result, list) else ():
        value = part.get("value") if isinstance(part, Mapping) else None
        if not isinstance(value, Mapping) or part.get("type") not in ("pairwise", "choices"):
            continue
        choice = value.get("selected")
        if part["type"] == "choices":
            choices = value.get("choices")
            choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        names = (columns.choice_0, columns.choice_1) if columns.choice else (_LEFT, _RIGHT)
        return chosen(choice, *names, tie=(columns.choice_tie, *_TIES))
    return None


def _person(value: Any) -> Any:
    """Return the id of a user; an export may state the user as an object."""
    return value.get("id", value.get("email")) if isinstance(value, Mapping) else value
