"""Read votes of GenAI-Arena, as GenAI-Bench publishes them: a left and a right image and the vote of one person."""

from collections.abc import Iterable

from pipelines.intake.sources.catalogue import Arena
from pipelines.intake.sources.reading.column_map import mapped_pair
from pipelines.intake.sources.reading.record_source import Pair, RecordSource
from pipelines.intake.sources.reading.records import Record
from pipelines.project.columns import ColumnsSection
from pipelines.project.sections import SourceSection

_COLUMNS = ColumnsSection(
    image_0="left_image",
    image_1="right_image",
    choice="vote_type",
    choice_0="leftvote",
    choice_1="rightvote",
    choice_tie="tievote",
    generator_0="left_model",
    generator_1="right_model",
)
_BOTH_BAD = ("bothbad_vote", "bothbadvote", "bothbad", "tie_vote", "tie")


class ArenaSource(RecordSource):
    """Reads a vote that both are bad as a tie."""

    what = "a file of GenAI-Arena votes"

    def layouts(self, source: SourceSection) -> tuple[tuple[str, ...], ...]:
        """Return the prompt, the images and the vote."""
        return Arena.layouts

    def pairs(self, record: Record, source: SourceSection) -> Iterable[Pair]:
        """Return the pair of a vote."""
        return [mapped_pair(record, _COLUMNS, ties=_BOTH_BAD)]
