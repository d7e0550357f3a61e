"""What a job would take and cost, before it starts: `reelsift answer ... --dry-run`. Starts no Ray, writes nothing.

Of files that are new to the output folder a random sample is probed; a few windows of it go through the real stages
in this process (calibrate.py); what was learnt stands for the rest. What the folder holds already is read, and not
counted.
"""

import logging
import random
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from jobs import costs, summary
from jobs.calibrate import calibrate
from jobs.costs import CostOptions
from jobs.estimate_bill import Sampled, as_bill, unused_rates
from jobs.resolve import Resolved
from jobs.workload import Amounts, Workload
from pipeline import ledger, stages
from pipeline.answered import Answered, open_windows, plan_windows
from pipeline.config import JobConfig
from pipeline.guard import guard
from pipeline.isolation import Reader, drop_child
from pipeline.ledger import Run
from pipeline.listing import list_videos
from pipeline.queries import Query
from pipeline.rows import Row
from pipeline.windows import Keys, holds, key, sorted_keys

logger = logging.getLogger(__name__)

MOST_FILES = 64
MOST_S = 20.0
"""A sample of new files is probed until there are so many, or it took so long."""
SEED = 20261121
KNOWN_WINDOWS = 64
"""Open windows of known videos that may be tried out."""
USUAL_FPS = 25.0
NOTHING = Answered(sorted_keys(()), sorted_keys(()), np.zeros(0, np.uint32), ())
"""What an empty folder holds."""


@dataclass(slots=True)
class Listing:
    """What is there, and what of it is new."""

    num_found: int = 0
    num_new: int = 0
    new_bytes: int = 0
    sample: list[Row] = field(default_factory=list[Row])
    """Of the new files, rows.FILE, in random order."""
    keys: Keys = field(default_factory=lambda: sorted_keys(()))


@dataclass(slots=True)
class Probed:
    """A sampled file and its windows."""

    file: Row
    """A rows.PROBED row, perhaps with an error."""
    windows: list[Row]
    """rows.WINDOW rows and what their decoding depends on: `class`, `megapixels`, `duration_s`."""


def dry_run(
    videos: str, out: str, queries: list[Query], config: JobConfig, plan: Resolved, costing: CostOptions
) -> int:
    """Print what a run would do and cost; return exit code 0.

    Raises:
        ConfigError: the folder is another job's, no video is found, or no rates are where they are said to be.
        StoreError: a place cannot be read.
    """
    ledger.check_folder(out, config, queries, plan.models)
    earlier = costs.earlier(out, costing.rates_from)
    listing = list_new(videos, out)
    try:
        made = estimate(out, listing, queries, config, plan, costing, earlier)
    finally:
        drop_child()
    known = listing.num_found - listing.num_new
    summary.print_plan(out, config, queries, plan, found=listing.num_found, known=known, estimate=made)
    return 0


def list_new(videos: str, out: str) -> Listing:
    """List the videos, holding 8 bytes of each and a random sample of those that are not in videos/ yet.

    Raises:
        ConfigError, StoreError: see `list_videos`.
    """
    known = ledger.video_keys(out)
    found, listing, draw = array("Q"), Listing(), random.Random(SEED)
    for file in list_videos(videos):
        found.append(key(file["video_id"], file["version"]))
        listing.num_found += 1
        if holds(known, found[-1]):
            continue
        listing.num_new += 1
        listing.new_bytes += file["size_bytes"]
        if len(listing.sample) < MOST_FILES:
            listing.sample.append(file)
        elif (place := draw.randrange(listing.num_new)) < MOST_FILES:
            listing.sample[place] = file
    draw.shuffle(listing.sample)
    listing.keys = sorted_keys(found)
    return listing


def estimate(
    out: str,
    listing: Listing,
    queries: Sequence[Query],
    config: JobConfig,
    plan: Resolved,
    costing: CostOptions,
    earlier: Any = None,
) -> dict[str, Any]:
    """Return the estimate as plain JSON values; docs/cost.md explains it."""
    probed = list(probe(listing.sample, queries, config))
    tried = _order([window for one in probed for window in one.windows] + _some_known(out, queries, listing))
    found = calibrate(tried, config, queries, plan, loads=costing.calibrate)
    work = Workload(config, queries, plan, found)
    known: Amounts = Amounts()
    for window in _known(out, queries, listing):
        known.update(work.of_window(window))
    per_file = [work.of_file(one.file, one.windows) for one in probed]
    sizes = [one.file["size_bytes"] for one in probed]
    sampled = Sampled(known, per_file, sizes, listing.num_new, listing.new_bytes)
    made = as_bill(sampled, found, earlier, config, plan, costing.prices, num_queries=len(queries), out=out)
    if costing.rates_from and (unused := unused_rates(made["stages"], earlier)):
        logger.warning("--rates-from %s says nothing of %s", costing.rates_from, ", ".join(unused))
    unusable = sum(1 for one in probed if one.file["error_type"])
    files = {
        "found": listing.num_found,
        "new": listing.num_new,
        "probed": len(probed),
        "unusable": unusable,
    }
    return {"files": files, "queries": len(queries), "windows_tried": len(found.windows), **made}


def probe(sample: Sequence[Row], queries: Sequence[Query], config: JobConfig) -> Iterator[Probed]:
    """Probe sampled files, for some seconds at most but one at least, and cut them into windows."""
    reader = Reader(config.decode, config.window)
    ends_s = time.monotonic() + MOST_S
    for number, file in enumerate(sample):
        if number and time.monotonic() > ends_s:
            return
        found = {"error_type": "", **guard(partial(stages.probe, reader), file)}
        windows: list[Row] = []
        if not found["error_type"]:
            own = sorted_keys([key(found["video_id"], found["version"])])
            windows = [
                {**window, **_nature(found, window)}
                for window in plan_windows([found], queries, found=own, answered=NOTHING)
            ]
        yield Probed(found, windows)


def _nature(video: Row, window: Row) -> Row:
    """Return what decoding a window depends on."""
    pixels = video["width_px"] * video["height_px"] * (video["fps"] or USUAL_FPS)
    height_px = min(video["width_px"], video["height_px"])
    size = next(
        (name for name, px in (("sd", 480), ("hd", 720), ("full-hd", 1080)) if height_px <= px), "uhd"
    )
    return {
        "class": f"{video['codec']} {size}",
        "megapixels": pixels / 1e6 * (window["end_s"] - window["start_s"]),
        "duration_s": video["duration_s"],
    }


def _known(out: str, queries: Sequence[Query], listing: Listing) -> Iterator[Row]:
    """Yield the windows of known videos that lack an answer; of what decoding them takes nothing is known."""
    if listing.num_new == listing.num_found:
        return
    for window in open_windows(Run(out, ""), queries, listing.keys):
        yield {**window, "class": "", "megapixels": 0.0, "duration_s": 0.0}


def _some_known(out: str, queries: Sequence[Query], listing: Listing) -> list[Row]:
    """Return a random sample of the open windows of known videos."""
    draw, sample = random.Random(SEED), list[Row]()
    for number, window in enumerate(_known(out, queries, listing)):
        if number < KNOWN_WINDOWS:
            sample.append(window)
        elif (place := draw.randrange(number + 1)) < KNOWN_WINDOWS:
            sample[place] = window
    return sample


def _order(windows: Sequence[Row]) -> list[Row]:
    """Return windows in random order, longer ones rather early; before all one of each class."""
    draw = random.Random(SEED)
    lots = [
        (draw.random() ** (1 / max(1e-3, window["end_s"] - window["start_s"])), number)
        for number, window in enumerate(windows)
    ]
    shuffled = [windows[number] for _, number in sorted(lots, reverse=True)]
    first = {window["class"]: number for number, window in reversed(list(enumerate(shuffled)))}
    ahead = set(first.values())
    return [shuffled[number] for number in sorted(ahead)] + [
        window for number, window in enumerate(shuffled) if number not in ahead
    ]
