"""`reelsift compact OUT`: brings small files of finished runs together, from any machine, without Ray."""

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict

from pipeline import compact, lease, ledger
from pipeline.config import SinkConfig
from pipeline.errors import ConfigError

EPILOG = """\
While a run writes to OUT this is refused, and a run while this is under way. Cut short, it goes on where it stopped
when it is called again; rows are never lost and never double. The tables hold the same rows as before; a query that is
under way in another process may fail, and is right when it is asked again.
"""


def main(argv: list[str]) -> int:
    """Merge the small files of OUT; the last stdout line is JSON.

    Raises:
        ConfigError: OUT is no output folder, or a setting is out of its range.
        JobError: a run is writing there.
        StoreError: the folder or bucket cannot be read or written.
    """
    parser = argparse.ArgumentParser(prog="reelsift compact", description=__doc__, epilog=EPILOG)
    parser.add_argument("out", metavar="OUT", help="output folder of a job, local or s3://")
    parser.add_argument(
        "--part-mb", type=int, default=SinkConfig().part_mb, metavar="N",
        help="size in 2^20 bytes that files grow to; those of less than half are merged (default: %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(argv)
    if given.part_mb < 1:
        msg = f"--part-mb {given.part_mb}: expected at least 1"
        raise ConfigError(msg)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    started = time.monotonic()
    if not ledger.run_ids(given.out):
        msg = f"{given.out}: found no run, expected an output folder of `reelsift answer`"
        raise ConfigError(msg)
    with lease.held(given.out, "compact") as held:
        ledger.recover(given.out)
        done = compact.compact(given.out, given.part_mb << 20, held.check)
    wall_s = round(time.monotonic() - started, 2)
    print(
        f"{done.files_before:,} files became {done.files_after:,} ({done.merged_bytes / 1e6:,.1f} MB brought together),"
        f" {done.records_folded:,} commit records folded, in {wall_s:g} s",
        file=sys.stderr,
    )
    print(json.dumps({"out": given.out, **asdict(done), "wall_s": wall_s}))
    return 0
