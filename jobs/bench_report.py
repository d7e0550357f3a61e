"""What every report of a measurement holds: the machine, the versions, the command, tables."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.errors import ConfigError

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


def write_report(name: str, lines: Sequence[str], path: Path | None, lacking: Sequence[str] = ()) -> None:
    """Print a report on stderr and write it to `path`, or to docs/benchmarks, named after machine and day.

    A run that is lacking something never takes the place of a whole measurement: without `path` it is only printed.
    """
    text = "\n".join(lines) + "\n"
    print(text, file=sys.stderr)
    if path is None and lacking:
        print(f"not written: {'; '.join(lacking)}; --report FILE writes it all the same", file=sys.stderr)
        return
    path = path or Path("docs/benchmarks") / f"{name}_{machine()}_{time.strftime('%Y-%m-%d')}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def machine() -> str:
    """Return how the reports of this machine are named."""
    return f"{len(os.sched_getaffinity(0))}-cpu-cores"


def list_files(option: str, folder: Path) -> list[Path]:
    """Return the files of a folder that an option names, in order.

    Raises:
        ConfigError: it cannot be listed, or holds none.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        msg = f"{option} {folder}: cannot be listed: {error.strerror}; give a folder with some real footage"
        raise ConfigError(msg) from error
    if not files:
        msg = f"{option} {folder}: holds no file; give a folder with some real footage"
        raise ConfigError(msg)
    return files
