"""`reelsift status OUT`: how far a run is, read from what it has committed; from any machine, without Ray.

Reading costs one small file per commit of the run, never the tables.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline import lease, ledger, store
from pipeline.errors import ConfigError
from pipeline.ledger import Run

STAGES = {"videos": "files", "windows": "windows", "verdicts": ""}
"""What is counted, and the manifest that says how many there are to be; verdicts follow from the others."""
STATES = {"stats.json": "done", "recovered.json": "cut short"}
"""Files that a closed run has; of one that has neither, the folder's lease says whether it runs."""
RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Stage:
    """How far one stage of a run is."""

    name: str
    done: int
    failed: int
    total: int | None
    """None = it is not known yet."""
    per_s: float | None
    """Between the first and the last commit; None = fewer than two."""

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the rate so far."""
        if self.total is None or not self.per_s:
            return None
        return max(0, self.total - self.done) / self.per_s


def main(argv: list[str]) -> int:
    """Print how far the latest run of OUT is; the last stdout line is JSON.

    Raises:
        ConfigError: no run was ever begun there.
        StoreError: the folder or bucket cannot be read.
    """
    parser = argparse.ArgumentParser(prog="reelsift status", description=__doc__)
    parser.add_argument("out", metavar="OUT", help="output folder of a job, local or s3://")
    parser.add_argument("--run", default="", help="run id (default: the latest)")
    given = parser.parse_args(argv)
    found = read(given.out, given.run)
    for line in lines(found, time.time()):
        print(line)
    print(json.dumps(found))
    return 0


def read(out: str, run_id: str = "") -> dict[str, Any]:
    """Return what a run has committed so far, and of what.

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
    run = Run(out, run_id or known[-1])
    counts: Counter[str] = Counter()
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    for commit in ledger.commits(run):
        counters = json.loads(commit["counters"])
        counts.update(counters)
        for name in STAGES:
            if name in counters and (at := commit.get("committed_s")):
                times[name].append(at)
    state = next(
        (name for file, name in STATES.items() if store.exists(store.join(run.folder, file))), ""
    ) or _open_state(run)
    every = [at for found in times.values() for at in found]
    return {
        "run_id": run.run_id,
        "state": state,
        "last_commit_s": max(every, default=None),
        "stages": [
            {
                "name": name,
                "done": counts[name],
                "failed": counts[f"failed_{name}"],
                "total": ledger.manifest_rows(run, of) if of else None,
                "per_s": _rate(counts[name], times[name]),
            }
            for name, of in STAGES.items()
        ],
    }


def _open_state(run: Run) -> str:
    """Return what a run is that is not closed: who holds the folder knows, if it is this run."""
    holder = lease.read(run.out)
    if holder is None or holder.run_id != run.run_id:
        return "cut short"
    return f"{RUNNING} on {holder.host}" if lease.runs(holder) else "cut short"


def lines(found: dict[str, Any], now_s: float) -> list[str]:
    """Return the report for people."""
    last_s = found["last_commit_s"]
    since = "nothing committed yet" if last_s is None else f"last commit {_span(now_s - last_s)} ago"
    said = [f"run {found['run_id']}: {found['state']}, {since}"]
    for values in found["stages"]:
        stage = Stage(**values)
        of = "" if stage.total is None else f" of {stage.total:,}"
        parts = [f"{stage.done:,}{of}", f"{stage.failed:,} failed"]
        if stage.per_s is not None:
            parts.append(f"{stage.per_s:.3g}/s")
        if found["state"].startswith(RUNNING) and stage.left_s:
            parts.append(f"about {_span(stage.left_s)} left")
        said.append(f"  {stage.name:9} {', '.join(parts)}")
    return said


def _rate(done: int, times_s: list[float]) -> float | None:
    """Return how many came per second; the first commit's are not counted: when their work began is not known."""
    if len(times_s) < 2 or max(times_s) <= min(times_s):
        return None
    return round(done * (len(times_s) - 1) / len(times_s) / (max(times_s) - min(times_s)), 6)


def _span(seconds: float) -> str:
    """Return a length of time in the two units that matter."""
    whole = max(0, round(seconds))
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole} s"
