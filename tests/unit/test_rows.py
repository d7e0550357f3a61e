"""Arrays travel as plain structs, every schema carries its errors, missing columns have defaults."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from pipeline import rows

SCHEMAS = {
    name: value for name, value in vars(rows).items() if isinstance(value, pa.Schema) and name != "PART"
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 4, 6, 3), (0, 5)])
def test_arrays_round_trip_through_arrow(dtype, shape):
    array = (np.arange(np.prod(shape)) % 7).astype(dtype).reshape(shape)
    table = rows.to_table([{"pixels": rows.pack(array)}], rows.DECODED)
    back = rows.unpack(next(rows.to_rows(table))["pixels"])
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_transposed_array_keeps_its_values():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    np.testing.assert_array_equal(rows.unpack(rows.pack(array)), array)


def test_reading_pixels_does_not_copy_them():
    array = np.zeros((1000, 1000), np.uint8)
    table = rows.to_table([{"pixels": rows.pack(array)}], rows.DECODED)
    before = pa.total_allocated_bytes()
    back = rows.unpack(next(rows.to_rows(table))["pixels"])
    assert back.base is not None
    assert pa.total_allocated_bytes() - before < array.nbytes // 2


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "FRAMES"])
def test_every_row_can_say_why_it_failed(name):
    assert SCHEMAS[name].names[-2:] == ["error_type", "error_message"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_row_of_defaults_fits_every_schema(name):
    table = rows.to_table([{}], SCHEMAS[name])
    assert table.schema == SCHEMAS[name]
    assert table.num_rows == 1
    assert not any(column.null_count for column in table.columns)


@pytest.mark.parametrize("name", rows.TABLES)
def test_written_tables_hold_plain_types(name):
    """No extension types and no half floats: DuckDB, Spark and Athena read them."""
    text = str(rows.TABLES[name])
    assert "extension" not in text
    assert "halffloat" not in text


def test_a_table_does_not_hold_on_to_the_arrays_it_was_made_of():
    array = np.ones((100, 100), np.uint8)
    before = sys.getrefcount(array)
    table = rows.to_table([{"pixels": rows.pack(array)}], rows.DECODED)
    assert sys.getrefcount(array) == before
    carried = rows.to_table(rows.to_rows(table), rows.DECODED)
    del table
    held = pa.total_allocated_bytes()
    del carried
    assert held - pa.total_allocated_bytes() >= array.nbytes, "one copy was there, and it is gone"
