"""Number of rows of a parquet file to read at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FEW_ROWS = 32
"""Rows of large images."""
MANY_ROWS = 1024
"""Rows of row groups that may be in memory as a whole."""
BYTES_AT_ONCE = 8 * 2**20
"""Bytes of rows, images included, that are read at once."""
SMALL_ROW_GROUP_BYTES = 128 * 2**20
"""Size of a row group that may be in memory as a whole."""


def rows_to_read(path: Path) -> int:
    """Return the number of rows of a source's file to read at a time, about BYTES_AT_ONCE.

    The sizes are those that the file states. At most FEW_ROWS where a row group is too large to be in memory as a
    whole, since some of its rows may be larger than the mean, and for a file that is not parquet.
    """
    try:
        index = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return FEW_ROWS
    sizes = [index.row_group(number).total_byte_size for number in range(index.num_row_groups)]
    rows: int = max(1, BYTES_AT_ONCE * max(1, index.num_rows) // max(1, sum(sizes)))
    return min(rows, MANY_ROWS if max(sizes, default=0) <= SMALL_ROW_GROUP_BYTES else FEW_ROWS)
