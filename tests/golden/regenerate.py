"""Writes the golden files anew: `make golden`, then review what git says has changed.

They hold what strangers build on: the columns of every table, and the options of every command.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import rows

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
OPTION = r"^[│ ]+((?:-\w, )?--[\w.-]+(?:, --[\w.-]+)*(?: (?:[A-Z_]{2,}|\{\S+\}))?)(?= |$)"


def schema(table: str) -> str:
    """One `name: type` line per column, in file order."""
    return "".join(f"{field.name}: {field.type}\n" for field in rows.TABLES[table])


def options(*command: str) -> str:
    """The usage line of a command's help and one line per option, without texts and defaults."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *command, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    usage = " ".join(done.stdout.partition("\n\n")[0].split())
    found = re.findall(OPTION, done.stdout, re.MULTILINE)
    return "".join(f"{line}\n" for line in [usage, *found])


GOLDEN: dict[str, Callable[[], str]] = {
    **{f"schema_{table}.txt": lambda table=table: schema(table) for table in rows.TABLES},
    "help_answer.txt": lambda: options("answer"),
    "help_show.txt": lambda: options("show"),
}

if __name__ == "__main__":
    for name, render in GOLDEN.items():
        (FOLDER / name).write_text(render())
        print(FOLDER / name)
