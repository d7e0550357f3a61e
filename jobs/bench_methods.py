"""Every published method that can be plugged in: table, name, source, and what it asks of a run."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench_report import table
from jobs.command_line import parse
from jobs.methods import read_methods, write_tables

PROG = "reelsift bench methods"


@dataclass(frozen=True)
class Arguments:
    """List the methods."""

    docs: Path | None = None
    """Markdown file whose tables of methods are made anew."""


def main(argv: list[str]) -> int:
    """Print a table to stderr; the last stdout line is JSON.

    Raises:
        ConfigError: the docs have no place for a table.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    if args.docs is not None:
        write_tables(args.docs)
    rows = list_methods()
    head = ["table", "name", "source", "training free", "by question", "positions"]
    print("\n".join(table(head, [[str(value) for value in row.values()] for row in rows])), file=sys.stderr)
    print(json.dumps({"bench": "methods", "rows": rows}))
    return 0


def list_methods() -> list[dict[str, Any]]:
    """Return a row per entry."""
    return [
        {
            "table": name,
            "name": entry,
            "source": one.source,
            "training_free": one.training_free,
            "query_dependent": one.query_dependent,
            "position_policy": one.positions,
        }
        for name, methods in read_methods().items()
        for entry, one in methods.items()
    ]
