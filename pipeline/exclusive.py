"""Creating a file that nobody else creates: the one thing that two drivers can agree by, on a disk or a bucket."""

import errno
import time
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.errors import StoreError
from pipeline.refusals import error_code, http_status, is_s3, read_errors

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
TAKEN_CODES = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
NOT_IMPLEMENTED = 501
SETTLE_S = 3.0
"""Longer than a put of a small object takes; waited only where a server has no conditional puts."""


def create_only(uri: str, data: bytes) -> bool:
    """Write a file unless there is one; of many that try at the same time, on any machines, one gets True.

    A server that does not honour `If-None-Match` (a second creation succeeds) is used otherwise: the object is looked
    for, written, and read back after SETTLE_S; the last of those that wrote within that time gets True.

    Args:
        uri: of the file.
        data: that nobody else would write: it holds an id of the writer.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    fs, path = store.open_fs(uri)
    with store.explained("write", uri):
        return _create_s3(fs, uri, path, data) if is_s3(uri) else _create_local(Path(path), data)


def _create_local(path: Path, data: bytes) -> bool:
    with store.temporary_beside(path, data) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # without hard links the name is as safe, the content comes a moment later
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
    store.sync_folder(path.parent)
    return True


def _create_s3(fs: Any, uri: str, path: str, data: bytes) -> bool:
    bucket, _, key = path.partition("/")

    def put() -> bool:
        try:
            fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except read_errors() as error:
            if error_code(error) not in TAKEN_CODES:
                raise
            return False
        return True

    if store.exists(uri):
        return False
    try:
        if not put():
            return _holds(uri, data)  # the answer to a first try was lost, and the client asked again
        if not put():
            return True
    except read_errors() as error:
        if http_status(error) != NOT_IMPLEMENTED:
            raise
        fs.pipe_file(path, data)
    time.sleep(SETTLE_S)
    return _holds(uri, data)


def _holds(uri: str, data: bytes) -> bool:
    try:
        return store.read_bytes(uri) == data
    except StoreError:
        if store.exists(uri):
            raise
        return False
