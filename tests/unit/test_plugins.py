"""Names are looked up in the table, then as an import path, and a miss says what is near."""

import math

import pytest

from pipeline.errors import ConfigError
from pipeline.plugins import Late, find

TABLE = {"uniform": len, "dycoke": sum}


def test_known_names_and_import_paths_are_found():
    assert find(TABLE, "dycoke", "TOKEN_COMPRESSORS") is sum
    assert find(TABLE, "math:sqrt", "TOKEN_COMPRESSORS") is math.sqrt  # type: ignore[comparison-overlap]


def test_a_miss_names_the_table_the_entries_and_the_nearest():
    with pytest.raises(
        ConfigError, match=r"TOKEN_COMPRESSORS has no entry 'unifrom'.*did you mean 'uniform'"
    ):
        find(TABLE, "unifrom", "TOKEN_COMPRESSORS")


@pytest.mark.parametrize("path", ["no_such_module:f", "math:no_such_function"])
def test_an_import_path_that_leads_nowhere_is_a_config_error(path):
    with pytest.raises(ConfigError, match="cannot import"):
        find(TABLE, path, "TOKEN_COMPRESSORS")


def test_a_late_table_imports_only_what_is_looked_up():
    table: Late[object] = Late({"here": "math:sqrt", "not": "no.such.module:entry"})
    assert list(table) == ["here", "not"]
    assert "not" in table
    assert find(table, "here", "TABLE") is math.sqrt
    with pytest.raises(ModuleNotFoundError, match="no"):
        table["not"]
