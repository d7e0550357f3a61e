"""A driver that commits to a real S3 server is killed at requests it makes, one after the other.

No Ray: the driver here stages its parts itself. What it does to the store is what the job does, and each of its
requests is heard by the server or is not. Running again must end with every row once and nothing staged. Here every
seventh request has its turn; `make chaos` tries both with every request, and every kind of fault.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

import fsspec
import pytest

from jobs.fault_proxy import Fault, FaultProxy
from pipeline import ledger, rows, sink, store
from pipeline.config import JobConfig
from pipeline.errors import StoreError
from pipeline.queries import Query
from pipeline.rows import Row
from pipeline.windows import holds, key
from tests.integration.s3_server import Bucket

STORE_BROKE = 3
THOROUGH = int(os.environ.get("REELSIFT_CHAOS_RUNS", "0")) >= 30
NAMES = ("a", "b", "c") if THOROUGH else ("a", "b")

pytestmark = [pytest.mark.needs_ceph, pytest.mark.timeout(3600)]


def drive(out: str) -> None:
    """Commit a part for each name that is not there yet: a row in two tables."""
    run = ledger.open_run(out, JobConfig(), [Query("q", "a dog", "find")], {"scorer": "s"})
    known = ledger.video_keys(out)
    missing = [name for name in NAMES if not holds(known, key(name, "1"))]
    if not missing:
        return
    ledger.write_parts(run.manifest("files"), [{"video_id": name} for name in missing], rows.FILE)
    ledger.start_run(run, JobConfig(), [Query("q", "a dog", "find")], {"scorer": "s"}, {})
    for name in missing:
        row: Row = {"video_id": name, "version": "1", "run_id": run.run_id, "query_id": "q"}
        tables = {table: rows.to_table([row], rows.TABLES[table]) for table in ("videos", "verdicts")}
        ledger.commit(run, sink.stage_part(run.staging, tables, [name], {}))
    ledger.close_run(run, {})


def in_another_process(act: Callable[[], None]) -> int:
    """Return the process id of a fork that acts; its exit code is 0, STORE_BROKE, or 1 for anything else."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        act()
        code = 0
    except StoreError:
        code = STORE_BROKE
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_whole(out: str) -> None:
    # a fork that closes its copies of our connections takes them out of the epoll set it shares with us, and we would
    # wait for an answer on them until the read times out: begin with new ones
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for table in ("videos", "verdicts"):
        assert sorted(row["video_id"] for row in ledger.scan(out, table, ["video_id"])) == sorted(NAMES), (
            table
        )
    staged = [entry.uri for entry in store.list_files(f"{out}/_run") if "/staging/" in entry.uri]
    assert staged == []


@pytest.fixture
def line(s3: Bucket, monkeypatch):
    proxy = FaultProxy(s3.server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    yield proxy
    proxy.refuse()


def num_requests(line: FaultProxy, out: str) -> int:
    asked: list[str] = []
    line.on_request = lambda verb, path: asked.append(f"{verb} {path}")
    assert end_of(in_another_process(lambda: drive(out))) == 0
    line.on_request = lambda _verb, _path: None
    check_whole(out)
    return len(asked)


class Killer:
    """Kills a process at its request of some number: before the server hears of it, or when it has done it."""

    def __init__(self, number: int, *, reaches: bool) -> None:
        self.number, self.reaches, self.heard, self.victim = number, reaches, 0, 0

    def on_request(self, _verb: str, _path: str) -> Fault | None:
        self.heard += 1
        if self.heard != self.number:
            return None
        if self.reaches:
            return Fault("unheard", then=self.kill)
        self.kill()
        return Fault("lost")

    def kill(self) -> None:
        while not self.victim:  # it asks before we are told who it is
            time.sleep(0.001)
        os.kill(self.victim, signal.SIGKILL)


@pytest.mark.parametrize("odd", [True, False] if THOROUGH else [True], ids=["odd", "even"][: 1 + THOROUGH])
def test_killed_at_every_request(s3: Bucket, line: FaultProxy, odd: bool):
    """Those of odd numbers are heard, or those of even ones."""
    total = num_requests(line, f"{s3.uri}/whole")
    assert total > 20
    for number in range(1, total + 1, 1 if THOROUGH else 7):
        out = f"{s3.uri}/{number}"
        killer = Killer(number, reaches=number % 2 == odd)
        line.on_request = killer.on_request
        killer.victim = in_another_process(lambda out=out: drive(out))
        assert end_of(killer.victim) == -signal.SIGKILL, f"request {number}"
        line.on_request = lambda _verb, _path: None
        assert end_of(in_another_process(lambda out=out: drive(out))) == 0, (
            f"after a kill at request {number}"
        )
        check_whole(out)


FAULTS = [
    Fault("lost"), Fault("unheard"), Fault("reset", after_bytes=0), Fault("close", after_bytes=40), Fault("refusal"),
]  # fmt: skip


def test_a_line_that_goes_bad_at_every_request(s3: Bucket, line: FaultProxy):
    """For two requests in a row: the driver gives up or does not, the next one finishes."""
    total = num_requests(line, f"{s3.uri}/whole")
    tries = [(number, fault) for number in range(total) for fault in FAULTS]
    for number, fault in tries if THOROUGH else tries[:: 5 * len(FAULTS) + 1]:
        out = f"{s3.uri}/{fault.kind}{number}"
        heard = 0

        def fail(_verb: str, _path: str, number=number, fault=fault) -> Fault | None:
            nonlocal heard
            heard += 1
            return fault if number < heard <= number + 2 else None

        line.on_request = fail
        first = end_of(in_another_process(lambda out=out: drive(out)))
        assert first in (0, STORE_BROKE), f"{fault.kind} at request {number}"
        line.on_request = lambda _verb, _path: None
        again = end_of(in_another_process(lambda out=out: drive(out)))
        assert again == 0, f"after {fault.kind} at request {number}"
        check_whole(out)
