"""Reading byte ranges of one version of an object: bounded patience, nothing short, nothing from another version."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import sync

from pipeline import refusals, store
from pipeline.errors import RowError, StoreError

logger = logging.getLogger(__name__)

PATIENCE_S = 90.0
SLOWEST_BYTES_PER_S = 2**18
STALL_S = 20.0
"""Longest wait for an answer to begin, or to go on, before the request is made anew."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0
PIECE_BYTES = 2**20
GONE = {"NoSuchKey", "404"}
CHANGED = {"PreconditionFailed", "412", "InvalidRange", "416"}
NUM_OTHERS = 5
"""Objects that are tried, at most, to learn whether a bucket gives any."""


class ChangedError(OSError):
    """The answer is of another version than the one asked for."""


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

    A request that breaks or stalls is made anew from where it broke, with growing waits. n bytes take at most
    PATIENCE_S + n / SLOWEST_BYTES_PER_S seconds, whatever the store does, and two stalls of STALL_S more.

    Raises:
        RowError: of the type asked for: the object is gone, was replaced, is not for this user, or cannot be read
            while the bucket gives others.
        StoreError: the store is out of reach; that says nothing about the object, which must be tried again.
    """
    fs, _ = store.open_fs(pinned.uri)
    patience_s = PATIENCE_S + (stop - start) / SLOWEST_BYTES_PER_S
    deadline_s = time.monotonic() + patience_s
    num_requests = num_failures = 0
    position = start

    def take(data: bytes) -> None:
        nonlocal position
        write(data)
        position += len(data)

    while position < stop:
        num_requests += 1
        before = position
        left_s = max(0.01, deadline_s - time.monotonic())
        try:
            with _told(pinned, error):
                sync(fs.loop, _request, fs, pinned, position, stop, take, timeout=left_s)
        except refusals.read_errors() as found:
            num_failures = 1 if position > before else num_failures + 1
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (num_failures - 1)) * random.uniform(0.5, 1.0)
            if time.monotonic() + wait_s >= deadline_s:
                raise _gave_up(pinned, found, patience_s, error) from found
            logger.info("%s: %s at byte %d; again in %.1f s", pinned.uri, _why(found), position, wait_s)
            time.sleep(wait_s)
    return num_requests


async def _request(fs: Any, pinned: Pinned, start: int, stop: int, take: Callable[[bytes], None]) -> None:
    """Make one request and hand on what comes."""
    bucket, _, key = pinned.uri.removeprefix("s3://").partition("/")
    is_strong = pinned.etag and not pinned.etag.startswith("W/")  # a weak one never matches
    only = {"IfMatch": f'"{pinned.etag}"'} if is_strong else {}
    # s3fs and botocore make a failed request anew a few times by themselves; all of that counts as one wait
    asked = fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **only)
    response = await asyncio.wait_for(asked, STALL_S)
    body = response["Body"]
    try:
        _check_version(response, pinned, start, stop)
        while data := await asyncio.wait_for(body.read(min(PIECE_BYTES, stop - start)), STALL_S):
            start += len(data)
            take(data)
            if start >= stop:
                return
    finally:
        body.close()
    msg = f"the answer ended {stop - start} bytes early"
    raise ConnectionError(msg)


def _check_version(response: Any, pinned: Pinned, start: int, stop: int) -> None:
    """Raise when an answer is not these bytes of this version: not every server minds what it was asked for."""
    found = response.get("ContentRange", "")
    if found != f"bytes {start}-{stop - 1}/{pinned.size_bytes}":
        if found.rpartition("/")[2] != str(pinned.size_bytes):
            msg = f"{found or 'the whole object'} came, expected {pinned.size_bytes} bytes in all"
            raise ChangedError(msg)
        msg = f"the answer is {found}, asked for were the bytes {start}-{stop - 1}"
        raise ConnectionError(msg)
    if pinned.etag and _opaque(response.get("ETag", "")) != _opaque(pinned.etag):
        msg = f"ETag {response.get('ETag')} came, expected {pinned.etag}"
        raise ChangedError(msg)


def _opaque(etag: str) -> str:
    """Return what an ETag names: a server on the way may make a strong one weak."""
    return etag.removeprefix("W/").strip('"')


@contextmanager
def _told(pinned: Pinned, error: type[RowError]) -> Generator[None]:
    """Turn what a server says about this object alone into a row's error, and what no retry mends into a job's."""
    try:
        yield
    except refusals.read_errors() as found:
        code = refusals.error_code(found)
        if code in GONE or (isinstance(found, FileNotFoundError) and code != "NoSuchBucket"):
            msg = f"{pinned.uri} was there when it was listed and is gone now; run again to leave it out"
        elif code in CHANGED or isinstance(found, ChangedError):
            msg = f"{pinned.uri} has changed since it was listed; run again to answer on the new version"
        elif code in refusals.OBJECT_CODES or (
            code and not refusals.is_outage(found, pinned.uri) and _serves_others(pinned)
        ):
            msg = f"{pinned.uri}: cannot be read: {refusals.explain(found, pinned.uri)}"
        elif code in refusals.BAD_CREDENTIALS or code == "NoSuchBucket":
            why = refusals.explain(found, pinned.uri)
            msg = f"cannot read {pinned.uri}: {why}; run the same command again to go on"
            raise StoreError(msg) from found
        else:
            raise
        raise error(msg) from found


def _why(found: BaseException) -> str:
    """Return what broke a request, in a few words."""
    return "no answer in time" if isinstance(found, TimeoutError) else f"{type(found).__name__}: {found}"


def _gave_up(
    pinned: Pinned, found: BaseException, patience_s: float, error: type[RowError]
) -> RowError | StoreError:
    """Return what it means that an object could not be read for so long."""
    is_late = isinstance(found, TimeoutError)
    why = "the store does not answer in time" if is_late else refusals.explain(found, pinned.uri)
    why += f" (tried for {patience_s:.0f} s)"
    if not refusals.is_busy(refusals.error_code(found)) and _serves_others(pinned):
        return error(f"{pinned.uri}: cannot be read: {why}, while its bucket answers; look at this object")
    return StoreError(f"cannot read {pinned.uri}: {why}; run the same command again to go on")


def _serves_others(pinned: Pinned) -> bool:
    """Return whether the bucket gives bytes of another object; where none can be named, whether it answers at all.

    To be listed is not enough: a store may know its objects and not get at their bytes, for hours.
    """
    fs, _ = store.open_fs(pinned.uri)
    bucket, _, key = pinned.uri.removeprefix("s3://").partition("/")
    try:
        return bool(sync(fs.loop, _read_another, fs, bucket, key, timeout=STALL_S))
    except refusals.read_errors() as found:
        return refusals.error_code(found) == "AccessDenied"  # these credentials may read, not list


async def _read_another(fs: Any, bucket: str, key: str) -> bool:
    page = await fs._call_s3("list_objects_v2", Bucket=bucket, MaxKeys=NUM_OTHERS + 1)
    others = [item["Key"] for item in page.get("Contents", []) if item["Key"] != key][:NUM_OTHERS]
    for other in others:
        try:
            asked = fs._call_s3("get_object", Bucket=bucket, Key=other, Range="bytes=0-0")
            response = await asyncio.wait_for(asked, STALL_S / (NUM_OTHERS + 1))
        except refusals.read_errors() as found:
            if refusals.error_code(found) and not refusals.is_outage(found, f"s3://{bucket}/{other}"):
                return True  # an answer about that object
        else:
            with closing(response["Body"]) as body:
                return bool(await asyncio.wait_for(body.read(1), STALL_S / (NUM_OTHERS + 1)))
    return not others
