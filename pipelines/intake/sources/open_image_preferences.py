"""Read open-image-preferences-v1-binarized: structs of the chosen and the rejected image in each row."""

from collections.abc import Iterable

from pipelines.intake.sources.catalogue import OpenImagePreferences
from pipelines.intake.sources.reading.column_map import mapped_pair
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

_COLUMNS = ColumnsSection(
    chosen="chosen", rejected="rejected", generator_0="chosen_model", generator_1="rejected_model"
)


class OpenImagePreferencesSource(RecordSource):
    """Reads the chosen image as image 0; models are optional."""

    what = "a file of open-image-preferences (binarized)"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return prompt, chosen and rejected."""
        return OpenImagePreferences.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the pair of a row."""
        return [mapped_pair(record, _COLUMNS)]
