"""The plain loop's own part: bringing tables to the size of a commit."""

import pyarrow as pa
import pytest

from jobs.plain_loop import gathered


@pytest.mark.parametrize("sizes", [[1] * 7, [2, 3, 2], [3, 3, 1], [3], []])
def test_rows_stay_in_order_and_tables_have_the_wanted_size(sizes: list[int]) -> None:
    numbers = iter(range(100))
    tables = [pa.table({"n": [next(numbers) for _ in range(size)]}) for size in sizes]
    found = list(gathered(iter(tables), 3))
    assert [n for table in found for n in table["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(len(table) == 3 for table in found[:-1])
    assert all(0 < len(table) <= 3 for table in found)
