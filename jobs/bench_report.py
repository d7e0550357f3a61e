"""What every report of a measurement holds: the machine, the versions, the command, tables."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

REPORTED = ("ray", "torch", "onnxruntime", "numpy", "av")


def circumstances(command: str) -> list[str]:
    """Return what a reader needs to repeat or doubt the figures, as Markdown list items."""
    versions = ", ".join(f"{name} {version(name)}" for name in REPORTED)
    cores = len(os.sched_getaffinity(0))
    return [
        f"- {time.strftime('%Y-%m-%d')}, {platform.machine()}, {cores} cores, Python {platform.python_version()},"
        f" {versions}",
        f"- `{command}`",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table's lines."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def write_report(name: str, lines: Sequence[str], path: Path | None) -> None:
    """Print a report on stderr and write it to `path`, or to docs/benchmarks under its name and the day."""
    text = "\n".join(lines) + "\n"
    path = path or Path("docs/benchmarks") / f"{name}_{time.strftime('%Y-%m-%d')}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text, file=sys.stderr)
