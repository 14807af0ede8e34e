"""Finished scores of a range of prompts, kept so that a killed evaluation does not compute them again."""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.jobs import SCORE_PIECES_DIR
from alignment.contracts.values import canonical_json
from alignment.evaluation.scoring import ScoreRow
from alignment.files.durable import write_bytes

logger = logging.getLogger(__name__)

PIECE_PROMPTS = 64
"""Prompts per piece: the most that each process of a killed evaluation scores again."""
BLANK = b"blank"


@dataclass(frozen=True)
class Piece:
    """Scores of every model's images of some prompts under every scorer, and the names of the blank images."""

    rows: list[ScoreRow]
    blank: list[str]


class ScorePieces:
    """Scores stored in OUT/score_pieces/{identity}.parquet; each file is complete or absent.

    The identity is a digest of the scorers (name and digest of each), the samples and the prompts. Another version of a
    library, another judge or another number of processes therefore computes new scores.
    """

    def __init__(self, out: Path, scorer_digests: Mapping[str, str], samples: Sequence[str]) -> None:
        self._folder = out / SCORE_PIECES_DIR
        self._about = [sorted(scorer_digests.items()), sorted(samples)]

    def read(self, prompts: Sequence[int]) -> Piece | None:
        """Read the piece of these prompts, given by index; None when it is not stored."""
        path = self._path(prompts)
        if not path.is_file():
            return None
        table = pq.read_table(path)
        columns = table.to_pydict()
        rows = [ScoreRow(*values) for values in zip(*(columns[name] for name in ScoreRow._fields), strict=True)]
        return Piece(rows, json.loads(table.schema.metadata[BLANK]))

    def write(self, prompts: Sequence[int], piece: Piece) -> None:
        """Store a piece."""
        self._folder.mkdir(exist_ok=True)
        table = pa.table({name: [getattr(row, name) for row in piece.rows] for name in ScoreRow._fields})
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({BLANK: json.dumps(piece.blank)}), buffer)
        write_bytes(self._path(prompts), buffer.getvalue())

    def _path(self, prompts: Sequence[int]) -> Path:
        identity = hashlib.sha256(canonical_json([*self._about, list(prompts)]).encode()).hexdigest()
        return self._folder / f"{identity}.parquet"
