"""Files and objects: the one place that knows where bytes live, a local folder or a bucket (`s3://`).

Endpoint and credentials of a bucket come only from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...) or the machine's own role; nothing here takes, keeps, pickles or prints
one, and each process builds its own client. Listings are never cached. Every write appears whole or not at all.
"""

import contextlib
import os
import sys
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, StoreError

ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
OBJECT_CODES = {"NoSuchKey", "404", "AccessDenied", "InvalidObjectState"}
"""What a server says about one object alone: gone, not for this user, or moved to an archive that must be thawed."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file found by listing."""

    uri: str
    size_bytes: int
    etag: str
    """Changes whenever the content may have changed: the object's ETag, or the file's mtime in nanoseconds."""


def open_fs(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI and the path in it, without touching the network.

    Raises:
        ConfigError: the URI has a scheme other than `s3://`.
    """
    scheme, separator, path = uri.partition("://")
    if not separator:
        return fsspec.filesystem("file"), str(Path(uri).absolute())
    if scheme != "s3":
        msg = f"{uri}: cannot read {scheme}://; give a local path or s3://bucket/folder"
        raise ConfigError(msg)
    config: dict[str, Any] = {"connect_timeout": 5, "retries": {"mode": "standard", "max_attempts": 3}}
    if any(os.environ.get(name) for name in ENDPOINT):
        config["s3"] = {"addressing_style": "path"}  # own servers rarely have a DNS name per bucket
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config), path


def join(uri: str, *parts: str) -> str:
    """Return the URI of something below a folder."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def read_bytes(uri: str) -> bytes:
    """Return the whole content of a file.

    Raises:
        StoreError: it does not exist or cannot be read.
    """
    fs, path = open_fs(uri)
    with _explained("read", uri):
        return fs.cat_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, even across a power cut.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    fs, path = open_fs(uri)
    with _explained("write", uri):
        if _is_s3(uri):
            fs.pipe_file(path, data)
        else:
            _write_local(Path(path), data)


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(uri: str, table: pa.Table) -> None:
    """Write a table as one zstd Parquet file, whole or not at all.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(uri, buffer.getvalue().to_pybytes())


def move(source: str, target: str) -> None:
    """Move a file inside one bucket or one disk; when it was moved already, nothing happens.

    Raises:
        StoreError: neither the source nor the target exists, or the target cannot be written.
    """
    fs, source_path = open_fs(source)
    _, target_path = open_fs(target)
    with _explained("move", source):
        try:
            if _is_s3(source):
                fs.cp_file(source_path, target_path)
                fs.rm_file(source_path)
            else:
                Path(target_path).parent.mkdir(parents=True, exist_ok=True)
                Path(source_path).replace(target_path)
                _sync_folder(Path(target_path).parent)
        except FileNotFoundError:
            if not exists(target):
                raise


def delete(uri: str) -> None:
    """Delete a file; when it is gone already, nothing happens.

    Raises:
        StoreError: it cannot be deleted.
    """
    fs, path = open_fs(uri)
    with _explained("delete", uri), contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def exists(uri: str) -> bool:
    """Return whether a file or folder is there; on a bucket a folder is there when something is in it.

    Raises:
        StoreError: the place cannot be asked.
    """
    fs, path = open_fs(uri)
    with _explained("look for", uri):
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def find(uri: str) -> FileEntry | None:
    """Return the file that a URI names as `list_files` would, or None when it is not there.

    Raises:
        StoreError: the place cannot be asked.
    """
    fs, path = open_fs(uri)
    with _explained("look for", uri):
        try:
            if not _is_s3(uri):
                return _entry(uri, Path(path).stat())
            info = fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileEntry(uri, info["size"], info["ETag"].strip('"'))


def list_files(uri: str, *, missing_ok: bool = False) -> Iterator[FileEntry]:
    """Yield every file below a folder (or the one file that `uri` names), in order of their full names.

    The order is the same on disk and in a bucket. Memory holds one directory or one page of 1,000 objects.
    Links to folders are followed. A local name that is not UTF-8 is given with backslash escapes.

    Args:
        uri: folder or file.
        missing_ok: yield nothing when there is no such folder, instead of raising.

    Raises:
        StoreError: no such folder, or it cannot be listed.
    """
    fs, path = open_fs(uri)
    with _explained("list", uri):
        found = False
        for entry in _list_s3(fs, path, uri) if _is_s3(uri) else _list_local(Path(path), uri):
            found = True
            yield entry
        if not found and not missing_ok and not exists(uri):
            raise FileNotFoundError


def _list_local(path: Path, uri: str) -> Iterator[FileEntry]:
    if path.is_file():
        yield _entry(uri, path.stat())
    elif path.exists():
        yield from _list_folder(path, uri, ())


def _list_folder(folder: Path, uri: str, above: tuple[tuple[int, int], ...]) -> Iterator[FileEntry]:
    """Yield the files below a folder; `above` holds device and inode of the folders around it."""
    here = (folder.stat().st_dev, folder.stat().st_ino)
    if here in above:  # a link back up
        return
    with os.scandir(folder) as scan:
        named = {
            entry.name + "/" * entry.is_dir(): entry for entry in scan if entry.is_dir() or entry.is_file()
        }
    for name in sorted(named):
        if name.endswith("/"):
            yield from _list_folder(folder / name, join(uri, name), (*above, here))
            continue
        try:
            status = named[name].stat()
        except FileNotFoundError:  # deleted since the folder was read
            continue
        yield _entry(join(uri, name), status)


def _entry(uri: str, status: os.stat_result) -> FileEntry:
    name = os.fsencode(uri).decode("utf-8", "backslashreplace")
    return FileEntry(name, status.st_size, str(status.st_mtime_ns))


def _list_s3(fs: Any, path: str, uri: str) -> Iterator[FileEntry]:
    """Yield the objects below a prefix, page by page."""
    bucket, _, prefix = path.partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    page: dict[str, Any] = {"NextContinuationToken": None}
    empty = True
    while "NextContinuationToken" in page:
        token = page["NextContinuationToken"]
        more = {"ContinuationToken": token} if token else {}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for item in page.get("Contents", []):
            empty = False
            if not item["Key"].endswith("/"):
                yield FileEntry(join(uri, item["Key"][len(prefix) :]), item["Size"], item["ETag"].strip('"'))
    if empty and prefix and exists(uri):
        info = fs.info(path)
        yield FileEntry(uri, info["size"], info["ETag"].strip('"'))


def _is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


@contextlib.contextmanager
def _explained(action: str, uri: str) -> Generator[None]:
    """Turn whatever the file system raises into a StoreError that says where to look."""
    try:
        yield
    except read_errors() as error:
        msg = f"cannot {action} {uri}: {explain(error, uri)}"
        raise StoreError(msg) from error


def read_errors() -> tuple[type[Exception], ...]:
    """Return what a broken read or write can raise; the S3 libraries are only asked when they were loaded."""
    if "botocore" not in sys.modules:
        return (OSError,)
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError, HttpError)


def error_code(error: BaseException) -> str:
    """Return the code a bucket's server gave (`AccessDenied`, `SlowDown`, `404`), empty when none did."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def is_outage(error: BaseException, uri: str) -> bool:
    """Return whether a failed read is about a whole bucket or the way to it, not about this one object."""
    if not _is_s3(uri):
        return False
    code = error_code(error)
    return code not in OBJECT_CODES if code else not isinstance(error, FileNotFoundError)


def explain(error: BaseException, uri: str) -> str:
    """Return why an operation failed and what to look at, without any credential."""
    if not _is_s3(uri):
        return _local_reason(error)
    bucket = uri.removeprefix("s3://").partition("/")[0]
    code = error_code(error)
    name = type(error).__name__
    if code == "NoSuchBucket":
        return f"no bucket {bucket!r} at this endpoint; check the name and AWS_ENDPOINT_URL"
    if code in BAD_CREDENTIALS:
        return (
            f"the credentials were refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,"
            " AWS_SESSION_TOKEN and AWS_PROFILE"
        )
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a machine role"
        )
    if isinstance(error, PermissionError):
        return (
            f"access denied ({code or 'no code'}); the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,"
            f" AWS_PROFILE) are wrong or may not do this in bucket {bucket!r}"
        )
    if isinstance(error, FileNotFoundError):
        return f"no such object or folder in bucket {bucket!r}"
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError"):
        return "nothing answers at the endpoint; check AWS_ENDPOINT_URL and the network"
    return f"{name}: {error}"


def _local_reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "permission denied for this user"
    return str(getattr(error, "strerror", None) or error)
