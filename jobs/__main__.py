"""The console script `reelsift`, also `python -m jobs`: finds the command, maps errors to exit codes.

Exit codes: 0 done; 1 done, but more rows failed than allowed; 2 wrong usage or configuration; 3 the run broke;
130 interrupted.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata

from pipeline.errors import ConfigError, JobError

COMMANDS = {
    "answer": "answer questions over an archive of videos",
    "index": "read one long video into a folder of keys and values, answer questions from it",
    "show": "look at results: a summary, or SQL over the Parquet",
    "compact": "bring small result files together",
    "status": "how far a run is, from what it has committed",
    "check-cluster": "what is wrong with a cluster file, before `ray up`",
    "submit": "run one of these commands as a job of a Ray cluster",
    "train": "label questions with known answers, train what routes",
    "world": "generate videos and questions whose answers are known",
    "bench": "measured comparisons",
}


def main() -> int:
    """Run the command that the command line names; return its exit code."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in ("", "-h", "--help"):
        print(_help(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    if name == "--version":
        print(f"reelsift {_version()}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(COMMANDS)}"
        print(f"reelsift: no command {name!r}; {hint}", file=sys.stderr)
        return 2
    return run_command(
        lambda argv: importlib.import_module(f"jobs.{name.replace('-', '_')}").main(argv), arguments
    )


def run_command(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Return a command's exit code, or that of the error it ended with, which is reported on stderr."""
    try:
        code = command(argv)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"reelsift: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"reelsift: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("reelsift: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - a bug: Python's own exit code 1 would say that rows failed
        traceback.print_exc()
        return 3
    return code


def _version() -> str:
    try:
        return metadata.version("reelsift")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def _help() -> str:
    commands = "\n".join(f"  {name:13} {what}" for name, what in COMMANDS.items())
    return (
        "usage: reelsift COMMAND ...\n\nAnswer a batch of plain-language questions over a whole archive of videos.\n\n"
        f"{commands}\n\n`reelsift COMMAND --help` lists the options of a command; --version prints the version."
    )


if __name__ == "__main__":
    sys.exit(main())
