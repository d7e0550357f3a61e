"""Reading a manifest: a file that names the videos, for an archive that is no folder, or takes too long to list.

    .parquet .csv    a column `uri`; with columns `size_bytes` and `etag` no file is asked for before it is read
    .txt             one URI a line; blank lines and lines that begin with `#` are passed over

A relative URI is relative to the manifest's folder. Everything streams: memory holds CHUNK rows (of Parquet also the
bytes of one row group), and some 20 bytes for every URI, to know it again.
"""

import csv
import io
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.folders import FileEntry
from pipeline.seen import Seen

logger = logging.getLogger(__name__)

CHUNK = 1024
"""Rows that are in memory at once."""
KNOWN_COLUMNS = ("uri", "size_bytes", "etag")
SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
MAX_SIZE_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Line:
    """What one row of a manifest says."""

    place: str
    """`line 3` or `row 3`, counted from 1."""
    uri: Any
    size_bytes: Any = None
    etag: Any = None
    trouble: str = ""


def is_manifest(uri: str) -> bool:
    """Return whether a URI names a manifest: a file, no folder, with one of its suffixes.

    Raises:
        StoreError: the bucket cannot be asked.
    """
    return _suffix(uri) in READERS and store.find(uri) is not None


def read_manifest(uri: str) -> Iterator[FileEntry]:
    """Yield every file that a manifest names, once and in its order; one that cannot be had has `trouble`.

    Size and ETag are taken from the manifest where a row has both, and looked up where not.

    Raises:
        ConfigError: it has no column `uri`, names nothing, or is not what its suffix says.
        StoreError: it cannot be read, or a bucket it names cannot be asked.
    """
    folder = uri.rpartition("/")[0]
    seen, num_lines, num_twice = Seen(), 0, 0
    with store.open_stream(uri) as file, ThreadPoolExecutor(store.MAX_CONNECTIONS) as pool:
        lines = READERS[_suffix(uri)](uri, file)
        while chunk := list(islice(lines, CHUNK)):
            named = [_entry(line, uri, folder) for line in chunk]
            fresh = [entry for entry in named if seen.add(hash(entry.uri))]
            num_lines += len(chunk)
            num_twice += len(chunk) - len(fresh)
            yield from _looked_up(fresh, uri, pool)
    if not num_lines:
        msg = f"{uri}: names no video; expected one URI per row"
        raise ConfigError(msg)
    if num_twice:
        logger.warning(
            "%s: %d rows name a file that a row before them names; each is taken once", uri, num_twice
        )


def _looked_up(entries: Sequence[FileEntry], manifest: str, pool: ThreadPoolExecutor) -> Iterator[FileEntry]:
    """Yield the entries in their order, those without an ETag as the store knows them."""
    unknown = [entry.uri for entry in entries if not entry.etag and not entry.trouble]
    found = pool.map(store.look_up, unknown)
    for entry in entries:
        known = entry if entry.etag or entry.trouble else next(found)
        yield replace(known, trouble=f"{known.trouble} ({manifest} names it)") if known.trouble else known


def _entry(line: Line, manifest: str, folder: str) -> FileEntry:
    """Return what a row says, as far as it can be known without asking the store; an empty ETag is to be looked up."""
    trouble = line.trouble
    if not trouble and not isinstance(line.uri, str):
        trouble = f"no URI in it, found {line.uri!r}"
    if not trouble and not line.uri:
        trouble = "no URI in it"
    if trouble:
        return FileEntry(f"{manifest}#{line.place}", 0, "", trouble)
    uri = _resolve(line.uri, folder)
    if trouble := store.misnamed(uri + "/" * line.uri.endswith("/")):
        return FileEntry(uri, 0, "", trouble)
    etag = "" if line.etag is None else store.listed_etag(str(line.etag).strip())
    try:
        size_bytes = _size(line.size_bytes)
    except (ValueError, TypeError, OverflowError):
        trouble = (
            f"size_bytes is {line.size_bytes!r} in {line.place}, expected a whole number of bytes; correct it"
        )
        return FileEntry(uri, 0, "", trouble)
    return FileEntry(uri, 0, "") if size_bytes is None or not etag else FileEntry(uri, size_bytes, etag)


def _resolve(name: str, folder: str) -> str:
    """Return the absolute form of a URI; in a bucket only steps at its beginning are taken, keys are literal."""
    if SCHEME.match(name):
        return name
    if name.startswith("/"):
        return os.path.normpath(name)
    if not SCHEME.match(folder):
        return os.path.normpath(f"{folder}/{name}")
    above = folder.split("/")
    while (step := name.split("/", 1))[0] in (".", "..") and len(step) > 1:
        name = step[1]
        if step[0] == ".." and len(above) > 3:  # not out of the bucket
            above.pop()
    return "/".join([*above, name])


def _size(value: Any) -> int | None:
    """Return a size in bytes, None where there is none.

    Raises:
        ValueError, TypeError, OverflowError: it is no whole number of bytes.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    size = int(value)
    if not 0 <= size <= MAX_SIZE_BYTES or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return size


# --- formats: bytes -> lines ---------------------------------------------------------------------------


def _read_parquet(uri: str, file: IO[bytes]) -> Iterator[Line]:
    try:
        parquet = pq.ParquetFile(file)
        columns = _known(parquet.schema_arrow.names, uri)
        _check_type(parquet.schema_arrow.field("uri").type, uri)
        number = 0
        for group in range(
            parquet.num_row_groups
        ):  # pyarrow keeps the bytes of all groups that it is given at once
            for batch in parquet.iter_batches(CHUNK, row_groups=[group], columns=columns):
                for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    number += 1
                    yield Line(f"row {number}", **dict(zip(columns, values, strict=True)))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # not what pyarrow says of a broken file, which is an OSError too
        first = str(error).partition("\n")[0]
        msg = f"{uri}: not a Parquet file that can be read ({first}); write it anew"
        raise ConfigError(msg) from error


def _check_type(kind: pa.DataType, uri: str) -> None:
    """Raise ConfigError when a column is not of texts."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        msg = f"{uri}: its column uri holds {kind}, expected string; write it anew"
        raise ConfigError(msg)


def _read_csv(uri: str, file: IO[bytes]) -> Iterator[Line]:
    reader = csv.reader(_text(uri, file, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            return
        columns = {name: header.index(name) for name in _known(header, uri)}
        for cells in reader:
            place = f"line {reader.line_num}"
            if len(cells) == len(header):
                yield Line(place, **{name: cells[at] for name, at in columns.items()})
            elif cells:
                trouble = (
                    f"{len(cells)} cells under a header of {len(header)}; quote a URI that holds a comma"
                )
                yield Line(place, None, trouble=trouble)
    except csv.Error as error:
        msg = f"{uri}, line {reader.line_num + 1}: not CSV: {error}; write it anew"
        raise ConfigError(msg) from error


def _read_txt(uri: str, file: IO[bytes]) -> Iterator[Line]:
    for number, line in enumerate(_text(uri, file, newline="\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield Line(f"line {number}", line.removesuffix("\n").removesuffix("\r"))


READERS: dict[str, Callable[[str, IO[bytes]], Iterator[Line]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".txt": _read_txt,
}


def _suffix(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower() if not uri.endswith("/") else ""


def _known(found: Sequence[str], uri: str) -> list[str]:
    """Return the columns of a manifest that mean something.

    Raises:
        ConfigError: there is not exactly one `uri` among them.
    """
    if found.count("uri") != 1:
        msg = f"{uri}: found the columns {', '.join(map(repr, found)) or '(none)'}, expected one called 'uri'"
        raise ConfigError(msg)
    return [name for name in KNOWN_COLUMNS if name in found]


def _text(uri: str, file: IO[bytes], newline: str) -> Iterator[str]:
    """Yield the lines of a text, after a byte order mark if there is one.

    Raises:
        ConfigError: it is not UTF-8.
    """
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    number = 1
    try:
        for line in lines:
            yield line
            number += 1
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        msg = (
            f"{uri}: byte 0x{byte:02x} in or after line {number} is not UTF-8; a {_suffix(uri)} file is read as a"
            " list of videos: save it as UTF-8, or rename it if it is a video"
        )
        raise ConfigError(msg) from error
