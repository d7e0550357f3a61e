"""`reelsift status OUT`: how far a run is, read from what it has committed; from any machine, without Ray.

Reading costs one small file per commit of the run, never the tables; watching, one per commit since the last look.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs.display import Terminal, display_on
from jobs.parts import num_rows
from jobs.progress import Pace, Stage, left_s, span, stage_lines
from pipeline import lease, ledger, store
from pipeline.errors import ConfigError
from pipeline.ledger import Run

STAGES = {
    "videos": ("files", ""),
    "windows": ("windows", ""),
    "answers": ("windows", "query_ids"),
    "verdicts": ("", ""),
}
"""What is counted, as the lines of a running job call it, and the manifest whose rows, or entries in lists, are as many
as there are to be."""
STATES = {"stats.json": "done", "recovered.json": "cut short"}
"""Files that a closed run has; of one that has neither, the folder's lease says whether it runs."""
RUNNING = "running"
WATCH_S = 10.0
"""Seconds between two looks, unless told."""


def main(argv: list[str]) -> int:
    """Print how far the latest run of OUT is; the last stdout line is JSON.

    Raises:
        ConfigError: no run was ever begun there.
        StoreError: the folder or bucket cannot be read.
    """
    parser = argparse.ArgumentParser(prog="reelsift status", description=__doc__)
    parser.add_argument("out", metavar="OUT", help="output folder of a job, local or s3://")
    parser.add_argument("--run", default="", help="run id (default: the latest)")
    parser.add_argument(
        "--watch", nargs="?", type=float, const=WATCH_S, metavar="SECONDS",
        help=f"look again every so many seconds (default: {WATCH_S:g}) until the run is closed",
    )  # fmt: skip
    given = parser.parse_args(argv)
    if given.watch is not None and given.watch <= 0:
        msg = f"--watch: found {given.watch:g}, expected more than 0 seconds"
        raise ConfigError(msg)
    tally = Tally(find_run(given.out, given.run))
    found = tally.look()
    if given.watch is None:
        print("\n".join(lines(found, time.time())))
    else:
        found = _watch(tally, given.watch)
    print(json.dumps(found))
    return 0


def find_run(out: str, run_id: str = "") -> Run:
    """Return a run of an output folder, the latest if none is named.

    Raises:
        ConfigError: no such run.
        StoreError: the folder or bucket cannot be read.
    """
    known = ledger.run_ids(out)
    if not known or (run_id and run_id not in known):
        msg = f"{out}: found {f'no run {run_id!r}' if known else 'no run'}; expected an output folder of"
        raise ConfigError(
            f"{msg} `reelsift answer`{', with one of ' + ', '.join(known[-3:]) if known else ''}"
        )
    return Run(out, run_id or known[-1])


def read(out: str, run_id: str = "") -> dict[str, Any]:
    """Return what a run has committed so far, and of what.

    Raises:
        ConfigError: no such run.
        StoreError: the folder or bucket cannot be read.
    """
    return Tally(find_run(out, run_id)).look()


class Tally:
    """Adds up what a run commits; each look reads what is new."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.counts: Counter[str] = Counter()
        self.known: set[str] = set()
        self.steps: list[tuple[float, Mapping[str, int]]] = []
        """When a part was committed, and its counters of STAGES."""
        self.totals: dict[str, int] = {}

    def look(self) -> dict[str, Any]:
        """Return what the run has committed by now, and of what.

        Raises:
            StoreError: the folder or bucket cannot be read.
        """
        # first: whoever finds it closed has then read all that it committed
        state = next(
            (name for file, name in STATES.items() if store.exists(store.join(self.run.folder, file))), ""
        ) or _open_state(self.run)
        for part in ledger.commits(self.run, self.known):
            counters = json.loads(part["counters"])
            self.known.add(part["part_id"])
            self.counts.update(counters)
            if at_s := part.get("committed_s"):
                self.steps.append((at_s, {name: counters[name] for name in STAGES if name in counters}))
        self.steps.sort(key=lambda step: step[0])
        return {
            "run_id": self.run.run_id,
            "state": state,
            "last_commit_s": self.steps[-1][0] if self.steps else None,
            "stages": [
                {
                    "name": name,
                    "done": self.counts[name],
                    "failed": self.counts[f"failed_{name}"],
                    "total": self._total(name, of, lists) if of else None,
                    "per_s": self._per_s(name),
                }
                for name, (of, lists) in STAGES.items()
            ],
        }

    def _total(self, name: str, of: str, lists: str) -> int | None:
        """Return how many rows, or entries in lists, a manifest has by now; None = it is not written down yet."""
        if name in self.totals:
            return self.totals[name]
        files = ledger.manifest_files(self.run, of)
        if not files:
            return None
        total = num_rows(files, lists)
        if self.counts[name]:  # before the first commit it may still be growing
            self.totals[name] = total
        return total

    def _per_s(self, name: str) -> float | None:
        """Return how fast a stage was lately when it committed last; None = it is not known yet."""
        pace, done = Pace(), 0
        for at_s, counters in self.steps:
            if name in counters:
                done += counters[name]
                pace.add(at_s, done)
        per_s = pace.per_s()
        return None if per_s is None else round(per_s, 6)


def _open_state(run: Run) -> str:
    """Return what a run is that is not closed: who holds the folder knows, if it is this run."""
    holder = lease.read(run.out)
    if holder is None or holder.run_id != run.run_id:
        return "cut short"
    return f"{RUNNING} on {holder.host}" if lease.runs(holder) else "cut short"


def is_running(found: dict[str, Any]) -> bool:
    """Return whether a run that was looked at goes on."""
    return found["state"].startswith(RUNNING)


def lines(
    found: dict[str, Any], now_s: float, width: int | None = None, *, colour: bool = False
) -> list[str]:
    """Return the report for people: how the run stands, and a line per stage as a running job has it."""
    last_s = found["last_commit_s"]
    since = "nothing committed yet" if last_s is None else f"last commit {span(now_s - last_s)} ago"
    stages = [Stage(**values, is_committed=True) for values in found["stages"]]
    head = f"run {found['run_id']}: {found['state']}, {since}"
    if is_running(found) and (rest_s := left_s(stages)):
        head += f", about {span(rest_s)} left"
    return [head[:width], *stage_lines(stages, width, bar=colour, colour=colour)]


def _watch(tally: Tally, every_s: float) -> dict[str, Any]:
    """Print how far a run is, again and again, until it is closed or Ctrl-C; return what was found last."""
    display = display_on(sys.stdout)
    while True:
        found = tally.look()
        if isinstance(display, Terminal):
            display.draw(lines(found, time.time(), display.columns, colour=display.colour))
        else:
            print("\n".join(lines(found, time.time())), flush=True)
        if not is_running(found):
            return found
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            return found
