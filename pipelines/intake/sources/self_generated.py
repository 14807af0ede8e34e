"""Read pairs that the base model drew (job draw_pairs): shards of the store, in the columns of Pick-a-Pic v2.

The template sets the label: no person compared the images. Such pairs train, and never calibrate a judge.
"""

from pipelines.contracts.pairs import SourceShard
from pipelines.intake.sources.pick_a_pic import PickAPicSource
from pipelines.project.sections import SourceSection
from pipelines.store.storage import Store


class SelfGeneratedSource(PickAPicSource):
    """Reads the files that the job published, like any other shard."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every file of the finished drawing; ValueError when it is not finished."""
        if not source.uri or store.read_manifest(source.uri) is None:
            raise ValueError(
                f"Source {source.name!r}: its pairs are not drawn yet. Run `plumbline draw` on the project first."
            )
        return super().list_shards(source, store)
