"""Number of rows of a parquet file to read at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FEW_ROWS = 32
"""Rows of large images."""
MANY_ROWS = 1024
"""Rows of row groups that may be in memory as a whole."""
SMALL_ROW_GROUP_BYTES = 128 * 2**20
"""Size of a row group that may be in memory as a whole."""


def rows_to_read(path: Path) -> int:
    """Return the number of rows of a source's file to read at a time: many where each row group is small.

    The sizes are those that the file states. FEW_ROWS for a large row group, and for a file that is not parquet.
    """
    try:
        index = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return FEW_ROWS
    largest = max((index.row_group(number).total_byte_size for number in range(index.num_row_groups)), default=0)
    return MANY_ROWS if largest <= SMALL_ROW_GROUP_BYTES else FEW_ROWS
