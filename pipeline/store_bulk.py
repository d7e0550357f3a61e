"""What the store does with much at a time: a file written piece by piece, many files deleted at once."""

import contextlib
import os
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline import store
from pipeline.errors import StoreError

PER_REQUEST = 1000
"""Objects that a bucket deletes in one request."""
BLOCK_BYTES = 1 << 24
"""Of a file on its way into a bucket, held in memory and sent at once."""


@contextlib.contextmanager
def write_stream(uri: str) -> Generator[IO[bytes]]:
    """Open a file to be written piece by piece; it appears, whole, when the block ends without an exception.

    Memory holds 16 MiB of it at most. A process killed on the way leaves nothing that readers see: on a disk a file
    ending in `.tmp`, in a bucket an upload that a lifecycle rule for incomplete ones clears away.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    with store.explained("write", uri):
        fs, path = store.open_fs(uri)
        with _to_bucket(fs, path) if uri.startswith("s3://") else _to_disk(Path(path)) as file:
            yield file


@contextlib.contextmanager
def _to_disk(path: Path) -> Generator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    store.sync_folder(path.parent)


@contextlib.contextmanager
def _to_bucket(fs: Any, path: str) -> Generator[IO[bytes]]:
    file = fs.open(path, "wb", block_size=BLOCK_BYTES)
    try:
        yield file
    except BaseException:
        file.discard()
        file.closed = True  # or it would be uploaded as far as it came
        raise
    file.close()


def delete_all(uris: Sequence[str]) -> None:
    """Delete files of one disk or bucket; those that are gone already are passed over.

    In a bucket a thousand go in one request.

    Raises:
        StoreError: one of them cannot be deleted.
    """
    for start in range(0, len(uris), PER_REQUEST):
        some = uris[start : start + PER_REQUEST]
        if some[0].startswith("s3://"):
            _delete_objects(some)
        else:
            for uri in some:
                store.delete(uri)


def _delete_objects(uris: Sequence[str]) -> None:
    fs, path = store.open_fs(uris[0])
    keys = [{"Key": store.open_fs(uri)[1].partition("/")[2]} for uri in uris]
    with store.explained("delete", uris[0]):
        told = fs.call_s3(
            "delete_objects", Bucket=path.partition("/")[0], Delete={"Objects": keys, "Quiet": True}
        )
    if failed := told.get("Errors"):
        msg = (
            f"cannot delete {len(failed)} of {len(uris)} objects, first {failed[0].get('Key')} in"
            f" {path.partition('/')[0]}: {failed[0].get('Code')}; allow s3:DeleteObject there and run this again"
        )
        raise StoreError(msg)
