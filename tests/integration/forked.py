"""`reelsift ...` in a process of its own that imports nothing: forked from one that has imported what commands need.

A driver takes five seconds of CPU time to import Ray, and fifteen with torch and transformers: longer than what it does
in most tests. That it starts from nothing is tested wherever `python -m jobs` is run.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.integration.preloaded"])


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Return what `reelsift` with these arguments printed and how it ended.

    Raises:
        subprocess.TimeoutExpired: it has not ended after so many seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _context.Process(target=_command, args=(arguments, dict(environment), cwd, out, err))
        process.start()
        process.join(timeout)
        is_late = process.exitcode is None
        if is_late:
            process.kill()
            process.join()
        said = [path.read_text() if path.exists() else "" for path in (out, err)]
        if is_late:
            raise subprocess.TimeoutExpired(list(arguments), timeout, *said)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def _command(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, out: Path, err: Path
) -> None:
    """Be the command, from the environment to the exit code."""
    from jobs.__main__ import main

    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["reelsift", *arguments]
    sys.exit(main())
