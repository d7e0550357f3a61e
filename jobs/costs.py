"""What runs have cost: written down when a run ends (`_run/<run_id>/cost.json`), added up over the runs of a folder."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.progress import Cluster
from pipeline import ledger, store
from pipeline.cost import NAME, Bill, Held, add_up, bill, told
from pipeline.errors import ConfigError
from pipeline.ledger import Run
from pipeline.prices import Prices, load_prices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CostOptions:
    """What is asked about costs; no result depends on it."""

    prices: Prices = field(default_factory=load_prices)
    rates_from: str = ""
    """Output folder or cost.json that an estimate goes by first."""
    calibrate: bool = False
    """Whether an estimate may load models, so that nothing is guessed."""


class Meter:
    """What a run holds of a cluster: what is seen at a look counts for the time since the look before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_s = self._looked_s = self._ended_s = time.monotonic()
        self._cpu_s = self._gpu_s = 0.0
        self.gpus: dict[str, float] = {}
        """GPUs of one actor, per stage that has any."""

    def note(self, place: Any) -> None:
        """Take note of where the actors go (a placement.Placement)."""
        self.gpus = {name: seat.num_gpus for name, seat in place.pools.items() if seat.num_gpus}

    def look(self, cluster: Cluster) -> None:
        """Take note of the machines that are there."""
        with self._lock:
            now_s = time.monotonic()
            self._cpu_s += (now_s - self._looked_s) * cluster.num_cpus
            self._gpu_s += (now_s - self._looked_s) * cluster.num_gpus
            self._looked_s = now_s

    def look_last(self, look: Callable[[], Cluster]) -> None:
        """Take note of the machines at the end of a run, which is not lost where they cannot be looked at."""
        try:
            self.look(look())
        except Exception:
            self._ended_s = time.monotonic()
            logger.exception(
                "the machines cannot be looked at: the bill counts them up to %.0f s before the end",
                self.held.unseen_s,
            )

    @property
    def held(self) -> Held:
        """What was held, from the start to the last look."""
        unseen_s = max(0.0, self._ended_s - self._looked_s)
        return Held(self._looked_s - self._started_s, self._cpu_s, self._gpu_s, unseen_s)


def write(run: Run, counters: Mapping[str, float], prices: Prices, meter: Meter, num_queries: int) -> Bill:
    """Write down what a run has cost, and return it.

    Raises:
        StoreError: the folder cannot be written.
    """
    in_bucket = run.out.startswith("s3://")
    made = bill(
        counters, prices, gpus=meter.gpus, held=meter.held, num_queries=num_queries, in_bucket=in_bucket
    )
    made = {"run_id": run.run_id, **made}
    store.write_bytes(store.join(run.folder, NAME), json.dumps(made, indent=1).encode())
    return made


def read(place: str) -> Bill | None:
    """Return the bill of a cost.json, or the sum over an output folder; None where there is none.

    Raises:
        StoreError: the place cannot be read.
    """
    if place.endswith(".json"):
        return json.loads(store.read_bytes(place)) if store.exists(place) else None
    return of_runs(place)


def earlier(out: str, rates_from: str) -> Bill | None:
    """Return the bill that an estimate goes by: of the place that is named, else of the output folder itself, if any.

    Raises:
        ConfigError: a place is named and has none.
        StoreError: a place cannot be read.
    """
    if not rates_from:
        return of_runs(out)
    found = read(rates_from)
    if found is None:
        msg = f"--rates-from {rates_from}: found no {NAME}; expected one, or an output folder of `reelsift answer`"
        raise ConfigError(msg)
    return found


def of_runs(out: str) -> Bill | None:
    """Return what all runs of an output folder cost together; None when none has committed anything.

    A run that was cut short wrote no bill: what it had committed is counted, at the prices of the package.

    Raises:
        StoreError: the folder cannot be read.
    """
    bills: list[Bill] = []
    query_ids: set[str] = set()
    for run_id in ledger.run_ids(out):
        run = Run(out, run_id)
        place = store.join(run.folder, NAME)
        found = json.loads(store.read_bytes(place)) if store.exists(place) else _of_commits(run)
        if found is None:
            continue
        bills.append(found)
        asked = store.join(run.folder, "queries.json")
        if store.exists(asked):
            query_ids.update(query["query_id"] for query in json.loads(store.read_bytes(asked)))
    return {**add_up(bills, len(query_ids)), "runs": len(bills)} if bills else None


def _of_commits(run: Run) -> Bill | None:
    """Return what the committed parts of a run without a bill cost; None when it has committed nothing."""
    counters: dict[str, float] = {}
    for part in ledger.commits(run):
        for name, value in json.loads(part["counters"]).items():
            counters[name] = counters.get(name, 0) + value
    if not counters:
        return None
    in_bucket = run.out.startswith("s3://")
    return bill(counters, load_prices(), gpus={}, held=None, num_queries=0, in_bucket=in_bucket)


def line(made: Bill) -> str:
    """Return a bill in one line: spot to on demand."""
    text = (
        f"{told(made['total'])} of work ({told(made['per_video_hour'])} per video hour, {told(made['per_query'])} per"
        " query; spot to on demand)"
    )
    if not (held := made["held"]):
        return text
    unseen_s = held.get("unseen_s", 0.0)
    end = f", without the last {unseen_s:.0f} s, in which they could not be looked at" if unseen_s else ""
    return f"{text}; machines held {told(held['dollars'])}{end}"
