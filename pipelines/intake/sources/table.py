"""Read any table of pairs whose columns the project file names."""

from collections.abc import Iterable

from pipelines.intake.sources.reading.column_map import mapped_pair
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection


class TableSource(RecordSource):
    """Reads parquet, CSV, TSV, JSON and JSON Lines."""

    what = "the table that [sources.columns] describes"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the columns that the project names."""
        return (_columns(source).named(),)

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the pair of a row."""
        return [mapped_pair(record, _columns(source))]


def _columns(source: SourceSection) -> ColumnsSection:
    columns = source.columns
    if columns is None or not (columns.chosen or columns.preference or columns.choice or columns.votes_0):
        raise ValueError(
            f"Source {source.name!r} of kind 'table' needs [sources.columns] with the prompt, the images and the label,"
            ' e.g. prompt = "text", image_0 = "left", image_1 = "right", choice = "winner". `plumbline sources` shows'
            " an example."
        )
    return columns
