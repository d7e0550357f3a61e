"""Staged parts as they come off a stream, each at once, and committed a few at a time.

`Dataset.iter_rows` fetches one block ahead, and hands on a block only when the next has come: a part would be committed
when the next is staged, which may be hours later behind a long video, and lost if the driver dies before.

A commit is some ten requests to a bucket one after another, a fifth of a second or more: one at a time, a driver would
publish some 150 windows a second, however many machines answer them. Parts have nothing to do with each other, so
several are under way at once; the steps of each keep their order.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Lock
from typing import Any

from pipeline import ledger, rows, store
from pipeline.ledger import Run
from pipeline.rows import Row

AT_ONCE = 16
"""Commits under way at the same time."""


def as_staged(stream: Any) -> Iterator[Row]:
    """Yield the rows of a dataset, parts mostly (rows.PART), while it runs: each when it has been staged."""
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from rows.to_rows(table)


def committed(run: Run, parts: Iterable[Row], check: Callable[[], None] = lambda: None) -> Iterator[Row]:
    """Commit parts as they come, AT_ONCE at the same time; yield each some time after it is committed.

    Ray may hand over a part twice; the second is looked at when the first is done. `check` is `ledger.commit`'s, called
    by one thread at a time.

    Raises:
        StoreError: see `ledger.commit`; no further part is begun. It is heard of when the next part comes, or there is
            none left.
    """
    under_way: dict[str, tuple[Row, Future[None]]] = {}
    turn = Lock()

    def check_in_turn() -> None:
        with turn:
            check()

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="commit") as pool:
        for part in parts:
            if part["part_id"] in under_way:
                wait([under_way[part["part_id"]][1]])
                yield from _done(under_way)
            under_way[part["part_id"]] = part, pool.submit(ledger.commit, run, part, check_in_turn)
            if len(under_way) == AT_ONCE:
                wait([future for _, future in under_way.values()], return_when=FIRST_COMPLETED)
            yield from _done(under_way)
        wait([future for _, future in under_way.values()])
        yield from _done(under_way)


def _done(under_way: dict[str, tuple[Row, Future[None]]]) -> Iterator[Row]:
    """Yield the parts whose commit has ended, and forget them."""
    for name in [name for name, (_, future) in under_way.items() if future.done()]:
        part, future = under_way.pop(name)
        future.result()
        yield part


def num_rows(uris: Iterable[str], lists: str = "") -> int:
    """Return how many rows some Parquet files hold together, from their footers, AT_ONCE at the same time.

    Or how many entries the lists of a column have, none of which is empty.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="footer") as pool:
        return sum(pool.map(partial(store.num_rows, lists=lists), uris))
