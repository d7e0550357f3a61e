"""Reading byte ranges of one version of an object: bounded retries, nothing short, nothing from another version."""

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import sync

from pipeline import store
from pipeline.errors import RowError, StoreError

logger = logging.getLogger(__name__)

TRIES = 5
"""Attempts of one request without a byte of progress."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0
PIECE_BYTES = 2**20
GONE = {"NoSuchKey", "404"}
CHANGED = {"PreconditionFailed", "412", "InvalidRange", "416"}


@dataclass(frozen=True, slots=True)
class Pinned:
    """One version of an object or file, as it was listed."""

    uri: str
    size_bytes: int
    etag: str
    """The object's ETag, or the file's mtime in nanoseconds."""


def fetch(
    pinned: Pinned, start: int, stop: int, write: Callable[[bytes], object], error: type[RowError]
) -> int:
    """Hand the bytes [start, stop) of an object to `write`, in order and in pieces; return the number of requests.

    A connection that breaks is taken up again where it broke.

    Raises:
        RowError: of the type asked for: the object is gone, was replaced, or is not for this user.
        StoreError: the store is out of reach; that says nothing about the object, which must be tried again.
    """
    fs, path = store.open_fs(pinned.uri)
    num_tries = num_requests = 0
    while start < stop:
        num_requests += 1
        before = start
        try:
            with _told(pinned, error):
                for piece in _pieces(fs, path, pinned, start, stop):
                    start += len(piece)
                    write(piece)
                if start < stop:
                    msg = f"the answer ended {stop - start} bytes early"
                    raise ConnectionError(msg)
        except store.read_errors() as found:
            num_tries = 1 if start > before else num_tries + 1
            if num_tries >= TRIES:
                why = store.explain(found, pinned.uri)
                msg = f"cannot read {pinned.uri}: {why} ({TRIES} tries); run the same command again to go on"
                raise StoreError(msg) from found
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**num_tries) * random.uniform(0.5, 1.0)
            logger.info("%s: %s at byte %d; again in %.1f s", pinned.uri, type(found).__name__, start, wait_s)
            time.sleep(wait_s)
    return num_requests


def _pieces(fs: Any, path: str, pinned: Pinned, start: int, stop: int) -> Iterator[bytes]:
    """Yield what one request answers."""
    bucket, _, key = path.partition("/")
    only = {"IfMatch": f'"{pinned.etag}"'} if pinned.etag else {}
    response = fs.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **only)
    body = response["Body"]
    left = stop - start
    try:
        while left and (piece := sync(fs.loop, body.read, min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
    finally:
        body.close()


@contextmanager
def _told(pinned: Pinned, error: type[RowError]) -> Generator[None]:
    """Turn what a server says about this object alone into a row's error, and what no retry mends into a job's."""
    try:
        yield
    except store.read_errors() as found:
        code = store.error_code(found)
        if code in GONE or (isinstance(found, FileNotFoundError) and code != "NoSuchBucket"):
            msg = f"{pinned.uri} was there when it was listed and is gone now; run again to leave it out"
        elif code in CHANGED:
            msg = f"{pinned.uri} has changed since it was listed; run again to answer on the new version"
        elif code and not store.is_outage(found, pinned.uri):
            msg = f"{pinned.uri}: cannot be read: {store.explain(found, pinned.uri)}"
        elif code in store.BAD_CREDENTIALS or code == "NoSuchBucket":
            msg = f"cannot read {pinned.uri}: {store.explain(found, pinned.uri)}; run the same command again to go on"
            raise StoreError(msg) from found
        else:
            raise
        raise error(msg) from found
