"""What every method that can be plugged in says of itself, and the tables of the docs made of it.

A section of docs/methods.md holds its table between `<!-- generated: TABLE -->` and `<!-- end -->`; what lies between
is written by `reelsift bench methods --docs docs/methods.md`, never by hand.
"""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

from jobs.bench_report import table
from pipeline.errors import ConfigError
from pipeline.methods import Method

TABLES = {
    "FRAME_SCORERS": "actors.models.tables:SCORER_METHODS",
    "ROUTERS": "actors.models.tables:ROUTER_METHODS",
    "FRAME_SELECTORS": "pipeline.select:METHODS",
    "TOKEN_COMPRESSORS": "pipeline.compress:METHODS",
    "KV_POLICIES": "actors.kv:METHODS",
    "MEMORIES": "pipeline.memory:METHODS",
}
"""Where the entries of a table, which lies beside them, say what they are. Imported when asked for."""
NOTHING = "-"


def read_methods() -> dict[str, Mapping[str, Method]]:
    """Return, table by table, what each entry says of itself."""
    found: dict[str, Mapping[str, Method]] = {}
    for name, place in TABLES.items():
        module, attribute = place.split(":")
        found[name] = getattr(importlib.import_module(module), attribute)
    return found


def markdown(methods: Mapping[str, Method]) -> list[str]:
    """Return the lines of the docs' table of some entries."""
    rows = [
        [
            f"`{name}`",
            one.source,
            one.what,
            ", ".join(one.needs) or NOTHING,
            _yes(one.query_dependent),
            _yes(one.stateful),
            _yes(not one.training_free),
            NOTHING if one.positions == "none" else one.positions,
            one.differs,
        ]
        for name, one in methods.items()
    ]
    head = [
        "name", "source", "what it does", "needs", "by question", "keeps state", "trained", "positions",
        "where we differ",
    ]  # fmt: skip
    return table(head, rows)


def _yes(holds: bool) -> str:
    return "yes" if holds else NOTHING


def with_tables(text: str) -> str:
    """Return the docs with every table made anew.

    Raises:
        ConfigError: there is no place for a table, or more than one.
    """
    for name, methods in read_methods().items():
        start = f"<!-- generated: {name} -->\n"
        between = re.compile(rf"({re.escape(start)})((?!<!-- generated).*?)(<!-- end -->)", re.DOTALL)
        made = "\n".join(markdown(methods)) + "\n"
        text, places = between.subn(lambda found, made=made: f"{found[1]}{made}{found[3]}", text)
        if places != 1:
            msg = (
                f"the docs have {places} places for the table {name}, expected one; write the lines"
                f" '{start.strip()}' and '<!-- end -->' where it belongs"
            )
            raise ConfigError(msg)
    return text


def write_tables(path: Path) -> None:
    """Make the tables of a file anew.

    Raises:
        ConfigError: it cannot be read, or see `with_tables`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--docs {path}: cannot be read: {error}; expected Markdown with places for tables"
        raise ConfigError(msg) from error
    path.write_text(with_tables(text), encoding="utf-8")
