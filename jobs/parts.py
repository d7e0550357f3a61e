"""Staged parts as they come off a stream, each at once.

`Dataset.iter_rows` fetches one block ahead, and hands on a block only when the next has come: a part would be committed
when the next is staged, which may be hours later behind a long video, and lost if the driver dies before.
"""

from collections.abc import Iterator
from typing import Any

from pipeline import rows
from pipeline.rows import Row


def as_staged(stream: Any) -> Iterator[Row]:
    """Yield the rows of a dataset, parts mostly (rows.PART), while it runs: each when it has been staged."""
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from rows.to_rows(table)
