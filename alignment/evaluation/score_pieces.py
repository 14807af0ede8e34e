"""Finished scores of one scorer and one rank, kept so that a killed evaluation does not score again."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.durable import write_bytes
from alignment.evaluation.scoring import ScoreRow

logger = logging.getLogger(__name__)

PIECES_DIR = "score_pieces"


class ScorePieces:
    """OUT/score_pieces/{scorer digest}_{rank}of{ranks}.parquet: every model's images of this rank under one scorer.

    A piece is whole or absent. The scorer's digest is in its name and each row says which samples it scored, so that
    another version of a library, or another number of processes, scores anew.
    """

    def __init__(self, out: Path, rank: int, ranks: int) -> None:
        self._folder = out / PIECES_DIR
        self._suffix = f"{rank}of{ranks}"

    def read(self, scorer_digest: str, samples: Sequence[str], num_rows: int) -> list[ScoreRow] | None:
        """The rows, or None where there are none or they are of other samples.

        `num_rows` counts images against their own prompts; what was scored against another prompt comes along.
        """
        path = self._path(scorer_digest)
        if not path.is_file():
            return None
        columns = pq.read_table(path).to_pydict()
        rows = [ScoreRow(*values) for values in zip(*(columns[name] for name in ScoreRow._fields), strict=True)]
        if sum(not row.shuffled for row in rows) != num_rows or {row.sample_digest for row in rows} - set(samples):
            logger.warning("%s is of other images; scored again", path)
            return None
        return rows

    def write(self, scorer_digest: str, rows: Sequence[ScoreRow]) -> None:
        """Keep the rows."""
        self._folder.mkdir(exist_ok=True)
        table = pa.table({name: [getattr(row, name) for row in rows] for name in ScoreRow._fields})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_bytes(self._path(scorer_digest), buffer.getvalue())

    def _path(self, scorer_digest: str) -> Path:
        return self._folder / f"{scorer_digest}_{self._suffix}.parquet"
