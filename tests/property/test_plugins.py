"""Every entry of every plug-in table is documented, and nothing is documented that does not exist."""

import importlib
import re
from pathlib import Path

import pytest

from jobs import methods
from pipeline.errors import ConfigError

TABLES = {
    "DECODERS": "pipeline.decode",
    "SAMPLERS": "pipeline.sampling",
    "FRAME_SCORERS": "actors.models.tables",
    "ROUTERS": "actors.models.tables",
    "FRAME_SELECTORS": "pipeline.select",
    "TOKEN_COMPRESSORS": "pipeline.compress",
    "KV_POLICIES": "actors.kv",
    "MEMORIES": "pipeline.memory",
    "ANSWERERS": "actors.models.tables",
    "AGGREGATORS": "pipeline.reduce",
}
DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def documented(table: str) -> list[str]:
    """Return the names in the first column of the section of a table."""
    text = DOCS.read_text(encoding="utf-8")
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


def test_the_documented_tables_are_those_that_the_entries_make():
    text = DOCS.read_text(encoding="utf-8")
    assert methods.with_tables(text) == text, "run: reelsift bench methods --docs docs/methods.md"


@pytest.mark.parametrize("table", sorted(methods.TABLES))
def test_every_entry_says_what_it_is_and_nothing_else_does(table):
    entries = getattr(importlib.import_module(TABLES[table]), table)
    assert list(methods.read_methods()[table]) == list(entries)


@pytest.mark.parametrize("table", sorted(methods.TABLES))
def test_words_of_a_method_are_plain_lines_of_a_table(table):
    for name, one in methods.read_methods()[table].items():
        for words in (one.source, one.what, one.differs):
            assert words == words.strip(), name
            assert not words.endswith("."), name
            assert words, name
            assert not set(words) & set("|\n"), name


def test_docs_without_a_place_for_a_table_are_refused(tmp_path):
    places = "".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in methods.TABLES)
    assert "`dycoke`" in methods.with_tables(places)
    for wrong, number in ((places.replace("ROUTERS", "OTHERS"), 0), (places + places, 2)):
        with pytest.raises(ConfigError, match=f"{number} places for the table"):
            methods.with_tables(wrong)
    with pytest.raises(ConfigError, match="cannot be read"):
        methods.write_tables(tmp_path / "nowhere.md")
