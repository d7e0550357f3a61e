"""Files and objects: the one place that knows where bytes live, a local folder or a bucket (`s3://`).

Endpoint and credentials of a bucket come only from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...) or the machine's own role; nothing here takes, keeps, pickles or prints
one, and each process builds its own client. Listings are never cached. Every write appears whole or not at all.
"""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, StoreError
from pipeline.folders import FileEntry, entry_of, walk
from pipeline.refusals import BAD_CREDENTIALS, error_code, explain, http_status, is_outage, is_s3, read_errors

ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}|arn:.*")
MAX_KEY_BYTES = 1024
READ_TIMEOUT_S = 20
"""Without a byte of an answer. A request that hangs longer would outlast a driver's lease (lease.py)."""
MAX_CONNECTIONS = 64
"""At once from one process: as many look-ups of a manifest are under way."""
STREAM_BLOCK_BYTES = 1 << 22
GROUP_BYTES = 1 << 21
"""Of a Parquet file's row groups, before compression: who looks for one window's frames reads no others with them."""


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
    config: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"mode": "standard", "max_attempts": 3},
        "max_pool_connections": MAX_CONNECTIONS,
    }
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
    with explained("read", uri):
        return fs.cat_file(path)


def read_if_there(uri: str) -> bytes | None:
    """Return the whole content of a file, None when there is none (any more).

    Raises:
        StoreError: it cannot be read.
    """
    fs, path = open_fs(uri)
    with explained("read", uri), contextlib.suppress(FileNotFoundError):
        return fs.cat_file(path)
    return None


@contextlib.contextmanager
def open_stream(uri: str) -> Generator[IO[bytes]]:
    """Open a file for reading piece by piece.

    Raises:
        StoreError: it does not exist or cannot be read, now or while it is read.
    """
    fs, path = open_fs(uri)
    with explained("read", uri), fs.open(path, "rb", block_size=STREAM_BLOCK_BYTES) as file:
        yield file


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, even across a power cut.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    fs, path = open_fs(uri)
    with explained("write", uri):
        if is_s3(uri):
            fs.pipe_file(path, data)
        else:
            _write_local(Path(path), data)


def _write_local(path: Path, data: bytes) -> None:
    with temporary_beside(path, data) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def temporary_beside(path: Path, data: bytes) -> Generator[Path]:
    """Yield a file beside the one that is to be, with its content on the disk; it is gone afterwards."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    created = _create(temporary)
    try:
        with created as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, tries: int = 10) -> IO[bytes]:
    """Return a new file; a folder that was just made for it is empty, and another command may tidy it away again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except (FileNotFoundError, FileExistsError):
        if tries == 1:
            raise
        return _create(path, tries - 1)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(folder: str) -> None:
    """Make what was deleted in a local folder stay deleted after a power cut; a bucket needs no such thing."""
    path = Path(open_fs(folder)[1])
    if not is_s3(folder) and path.is_dir():
        with explained("settle", folder):
            sync_folder(path)


def num_rows(uri: str, lists: str = "") -> int:
    """Return how many rows a Parquet file has, or how many entries its column of lists, none empty; by its footer.

    Raises:
        StoreError: it cannot be read.
    """
    fs, path = open_fs(uri)
    with explained("read", uri), fs.open(path, "rb") as file:
        found = pq.ParquetFile(file).metadata
    if not lists:
        return found.num_rows
    groups = map(found.row_group, range(found.num_row_groups))
    chunks = (group.column(column) for group in groups for column in range(group.num_columns))
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith(f"{lists}."))


def write_table(uri: str, table: pa.Table) -> int:
    """Write a table as one zstd Parquet file with checksums, whole or not at all; return its size in bytes.

    Raises:
        StoreError: the folder or bucket cannot be written.
    """
    buffer = pa.BufferOutputStream()
    group_rows = max(1, len(table) * GROUP_BYTES // max(1, table.nbytes))
    pq.write_table(table, buffer, row_group_size=group_rows, **parquet_options(table.schema))
    data = buffer.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how all our Parquet files are written.

    Lists get no dictionary: numbers that hardly come twice would make each row group of embeddings a third larger.
    """
    plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
    return {"compression": "zstd", "write_page_checksum": True, "use_dictionary": plain or False}


def move(source: str, target: str) -> None:
    """Move a file inside one bucket or one disk; when it was moved already, nothing happens.

    Raises:
        StoreError: neither the source nor the target exists, or the target cannot be written.
    """
    fs, source_path = open_fs(source)
    _, target_path = open_fs(target)
    with explained("move", source):
        try:
            if is_s3(source):
                fs.cp_file(source_path, target_path)
                fs.rm_file(source_path)
            else:
                Path(target_path).parent.mkdir(parents=True, exist_ok=True)
                Path(source_path).replace(target_path)
                sync_folder(Path(target_path).parent)
        except FileNotFoundError:
            if not exists(target):
                raise


def delete(uri: str) -> None:
    """Delete a file; when it is gone already, nothing happens.

    Raises:
        StoreError: it cannot be deleted.
    """
    fs, path = open_fs(uri)
    with explained("delete", uri), contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def exists(uri: str) -> bool:
    """Return whether a file or folder is there; on a bucket a folder is there when something is in it.

    Raises:
        StoreError: the place cannot be asked.
    """
    fs, path = open_fs(uri)
    with explained("look for", uri):
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def find(uri: str) -> FileEntry | None:
    """Return the file that a URI names as `list_files` would, or None when there is no file.

    Raises:
        StoreError: the place cannot be asked.
    """
    fs, path = open_fs(uri)
    with explained("look for", uri):
        try:
            if not is_s3(uri):
                status = Path(path).stat()
                return entry_of(uri, status) if stat.S_ISREG(status.st_mode) else None
            info = fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileEntry(uri, info["size"], listed_etag(info["ETag"])) if info["type"] == "file" else None


def misnamed(uri: str) -> str:
    """Return why a URI cannot name a file, as far as its text says; empty when it can."""
    scheme, separator, path = uri.partition("://")
    if separator and scheme != "s3":
        return f"cannot read {scheme}://; give a local path or s3://bucket/object"
    if "\x00" in uri:
        return "the name holds a NUL character; no file has one"
    if uri.endswith("/") or (separator and "/" not in path):
        return "a folder, expected a file; name the files in it"
    bucket, _, key = path.partition("/")
    if separator and not BUCKET.fullmatch(bucket):
        return f"no bucket can be called {bucket!r}"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"the key is longer than {MAX_KEY_BYTES} bytes; no object has such a one"
    return ""


def look_up(uri: str) -> FileEntry:
    """Return the file that a URI names as `list_files` would; one that cannot be had says why in `trouble`.

    Raises:
        StoreError: nothing answers, or the credentials are refused; no other object would do better.
    """
    if trouble := misnamed(uri):
        return FileEntry(uri, 0, "", trouble)
    try:
        return _head(uri) if is_s3(uri) else entry_of(uri, Path(uri).stat())
    except read_errors() as error:
        is_about_it = isinstance(error, PermissionError | FileNotFoundError)
        if error_code(error) in BAD_CREDENTIALS or (is_outage(error, uri) and not is_about_it):
            msg = f"cannot look for {uri}: {explain(error, uri)}"
            raise StoreError(msg) from error
        return FileEntry(uri, 0, "", explain(error, uri))


def _head(uri: str) -> FileEntry:
    fs, path = open_fs(uri)
    bucket, _, key = path.partition("/")
    try:
        head = fs.call_s3("head_object", Bucket=bucket, Key=key)
    except read_errors() as error:
        if http_status(error) // 100 != 4:
            raise
        # the answer to a HEAD has no body: what is wrong shows only in the answer to another request
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
        if page.get("Contents"):
            return FileEntry(uri, 0, "", misnamed(f"{uri}/"))
        if isinstance(error, PermissionError):
            denied = (
                "access denied: the credentials may list the bucket, not read this object; allow s3:GetObject"
            )
            return FileEntry(uri, 0, "", denied)
        raise
    return FileEntry(uri, head["ContentLength"], listed_etag(head["ETag"]))


def list_files(
    uri: str, *, starts: str = "", missing_ok: bool = False, strict: bool = True
) -> Iterator[FileEntry]:
    """Yield every file below a folder (or the one file that `uri` names), in order of their full names.

    The order is the same on disk and in a bucket. Memory holds one directory or one page of 1,000 objects.
    Links to folders are followed.

    Args:
        uri: folder or file.
        starts: only names directly below the folder that begin so; a bucket is asked for no others.
        missing_ok: yield nothing when there is no such folder, instead of raising.
        strict: leave out what is no readable file, and raise when a folder below cannot be entered. Otherwise
            both come as entries with `trouble`, a folder's URI ending in `/`.

    Raises:
        StoreError: no such folder, or it cannot be listed.
    """
    fs, path = open_fs(uri)
    with explained("list", uri):
        found = False
        entries = _list_s3(fs, path, starts) if is_s3(uri) else walk(path, uri, starts, strict=strict)
        for entry in entries:
            found = True
            if not (strict and entry.trouble):
                yield entry
        if not found and not missing_ok and not exists(uri):
            raise FileNotFoundError


def names_below(uri: str) -> list[str]:
    """Return the names directly below a folder, sorted; none when there is no folder. A bucket is asked for no others.

    Raises:
        StoreError: it cannot be listed.
    """
    fs, path = open_fs(uri)
    with explained("list", uri), contextlib.suppress(FileNotFoundError):
        return sorted(name.rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False))
    return []


def _list_s3(fs: Any, path: str, starts: str) -> Iterator[FileEntry]:
    """Yield the object of exactly this key, then those below it, page by page."""
    bucket, _, key = path.partition("/")
    if key and not key.endswith("/"):
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        if page.get("Contents") and page["Contents"][0]["Key"] == key:  # of all that begin so it is the first
            yield _object(bucket, page["Contents"][0])
        key += "/"
    page: dict[str, Any] = {"NextContinuationToken": None}
    while "NextContinuationToken" in page:
        token = page["NextContinuationToken"]
        more = {"ContinuationToken": token} if token else {}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key + starts, **more)
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                yield _object(bucket, item)


def _object(bucket: str, item: dict[str, Any]) -> FileEntry:
    return FileEntry(f"s3://{bucket}/{item['Key']}", item["Size"], listed_etag(item["ETag"]))


def listed_etag(text: str) -> str:
    """Return an ETag as it is written down: a strong one without its quotes, a weak one (`W/"..."`) as it is."""
    return text if text.startswith("W/") else text.strip('"')


@contextlib.contextmanager
def explained(action: str, uri: str) -> Generator[None]:
    """Turn whatever the file system raises into a StoreError that says where to look."""
    try:
        yield
    except read_errors() as error:
        msg = f"cannot {action} {uri}: {explain(error, uri, action)}"
        raise StoreError(msg) from error
