"""Every entry of every plug-in table is documented, and nothing is documented that does not exist."""

import importlib
import re
from pathlib import Path

import pytest

TABLES = {
    "DECODERS": "pipeline.decode",
    "SAMPLERS": "pipeline.sampling",
    "FRAME_SCORERS": "actors.models.tables",
    "ROUTERS": "actors.models.tables",
    "TOKEN_COMPRESSORS": "pipeline.compress",
    "ANSWERERS": "actors.models.tables",
    "AGGREGATORS": "pipeline.reduce",
}
METHODS = Path(__file__).parents[2] / "docs" / "methods.md"


def documented(table: str) -> list[str]:
    """Return the names in the first column of the section of a table."""
    text = METHODS.read_text(encoding="utf-8")
    section = re.search(rf"^## .*`{table}`.*?$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/methods.md has no section for {table}"
    return re.findall(r"^\| `([^`]+)` \|", section[1], re.MULTILINE)


@pytest.mark.parametrize("table", sorted({**TABLES, "FAMILIES": ""}))
def test_documented_entries_are_the_entries(table):
    entries = getattr(importlib.import_module(TABLES.get(table, "actors.models.families")), table)
    assert sorted(documented(table)) == sorted(entries)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_entries_have_plain_names_and_a_docstring(table):
    for name, entry in getattr(importlib.import_module(TABLES[table]), table).items():
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name)
        for function in [entry] if callable(entry) else [entry.describe, entry.make]:
            assert (function.__doc__ or "").strip(), f"{table}[{name!r}] says nothing about itself"
