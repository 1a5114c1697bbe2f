"""The column of vectors of an Arrow table as one matrix."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def matrix(table: pa.Table) -> np.ndarray:
    """The column `vector`, of fixed-size lists: (rows, dim), of the column's own type, without a copy where it can be.

    A table without rows gives (0, dim).
    """
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
