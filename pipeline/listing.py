"""Finding videos: a folder, a pattern, one file, a bucket or a manifest becomes one row per file."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fsspec.utils import glob_translate

from pipeline.errors import ConfigError, JobError, StoreError
from pipeline.folders import FileEntry, text
from pipeline.manifest import is_manifest, read_manifest
from pipeline.rows import Row
from pipeline.store import exists, list_files

logger = logging.getLogger(__name__)

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".ogv", ".avi", ".flv", ".f4v", ".wmv"),
    *(".asf", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf"),
)
"""What is taken for a video when a folder is walked; files named one by one may be called anything."""
MAGIC = re.compile(r"[*?\[]")


def list_videos(uri: str) -> Iterator[Row]:
    """Yield a rows.FILE row for every video of a folder (with those below), a pattern, one file, or a bucket prefix.

    In a pattern `*` and `?` stay within a folder and `**` crosses folders; what exists under a name with these
    characters is meant literally. A walk takes the suffixes of SUFFIXES and passes over hidden files; a file
    named, or matched by a pattern that ends in a suffix, is always taken. A .parquet, .csv or .txt file is a
    manifest (manifest.py). What is named like a video, or named in a manifest, and cannot be read is a row with
    its error columns filled. Nothing is held: rows come as the store lists.

    Raises:
        ConfigError: nothing is found, or the manifest cannot be understood.
        StoreError: the place cannot be listed.
    """
    if "://" not in uri:
        uri = os.path.normpath(Path(uri).expanduser().absolute())
    if (name := text(uri)) != uri:
        msg = f"no videos at {name}: the path is not UTF-8, here it stands with escapes; rename it"
        raise ConfigError(msg)
    entries = read_manifest(uri) if is_manifest(uri) else _find_videos(uri)
    for entry in entries:
        yield {
            "video_id": video_id(entry.uri),
            "version": version(entry.size_bytes, entry.etag),
            "uri": entry.uri,
            "size_bytes": entry.size_bytes,
            "etag": entry.etag,
            "error_type": "ProbeError" if entry.trouble else "",
            "error_message": f"{entry.uri}: {entry.trouble}" if entry.trouble else "",
        }


def check_apart(videos: str, out: str) -> None:
    """Refuse results inside the folder or prefix that is walked for videos: each run would walk what it writes.

    Raises:
        ConfigError: both places.
    """
    if is_manifest(videos):
        return
    source, target = _real(videos), _real(out)
    if target == source or (not MAGIC.search(videos) and target.startswith(f"{source}/")):
        msg = (
            f"the output folder {out} is {'the same as' if target == source else 'inside'} {videos}, where the videos"
            " lie; give OUT a place of its own, beside them"
        )
        raise ConfigError(msg)


def _real(uri: str) -> str:
    """Return a place without links and detours, and without the slash at its end."""
    return uri.rstrip("/") if "://" in uri else os.path.realpath(Path(uri).expanduser())


def _find_videos(uri: str) -> Iterator[FileEntry]:
    """Yield the videos of a folder or pattern, or the one file."""
    folder, pattern = _split(uri)
    if "://" not in folder and not exists(folder):
        msg = f"no videos at {uri}: there is no such file or folder; check the path"
        raise ConfigError(msg)
    is_wanted = _choice(uri, folder, pattern)
    starts = MAGIC.split(pattern, maxsplit=1)[0]
    is_empty, others = True, Others()
    for entry in list_files(folder, starts=starts, missing_ok=True, strict=False):
        if not is_wanted(entry.uri):
            others.add(entry)
        elif entry.trouble and entry.uri == uri:
            msg = f"no videos at {uri}: {entry.trouble}"
            raise ConfigError(msg)
        else:
            is_empty = False
            yield entry
    if is_empty:
        wanted = "a match" if "." in pattern else f"a file ending in {', '.join(SUFFIXES)}"
        raise others.why_nothing(uri, wanted)


def _split(uri: str) -> tuple[str, str]:
    """Return the folder or file that a URI names literally, and the pattern below it (empty: there is none)."""
    parts = uri.split("/")
    for index, part in enumerate(parts):
        if MAGIC.search(part) and not exists("/".join(parts[: index + 1])):
            return "/".join(parts[:index]) + "/", "/".join(parts[index:])
    return uri, ""


def _choice(uri: str, folder: str, pattern: str) -> Callable[[str], bool]:
    """Return what decides whether the file of a URI is a video that was asked for.

    Raises:
        ConfigError: the pattern is none.
    """
    try:
        fits = re.compile(glob_translate(pattern)).match
    except (ValueError, re.error) as error:
        msg = f"{uri}: not a pattern ({error}); `*` and `?` stay within a folder, `**` stands for any folders"
        raise ConfigError(msg) from error
    takes_all = "." in pattern.rpartition("/")[2]

    def is_wanted(name: str) -> bool:
        if name == uri:
            return True
        last = name.rpartition("/")[2]  # empty for a folder
        is_video = last.lower().endswith(SUFFIXES) and not last.startswith(".")
        if not pattern or not last:
            return is_video
        return (takes_all or is_video) and fits(name[len(folder) :]) is not None

    return is_wanted


@dataclass(slots=True)
class Others:
    """What a walk met and did not take."""

    count: int = 0
    num_closed: int = 0
    example: str = ""

    def add(self, entry: FileEntry) -> None:
        """Count an entry; say so when it might have been, or have held, a video."""
        self.count += 1
        self.num_closed += entry.uri.endswith("/")
        self.example = self.example or entry.uri
        if entry.trouble:
            logger.warning("passed over %s: %s", entry.uri, entry.trouble)

    def why_nothing(self, uri: str, wanted: str) -> JobError:
        """Return why a walk that took nothing took nothing."""
        if self.num_closed:
            return StoreError(
                f"no videos at {uri}: {self.num_closed} folders in it cannot be entered, the first is"
                f" {self.example}; let this user read them"
            )
        if not self.count:
            place = "no object has a key that begins so" if "://" in uri else "it holds no file"
            return ConfigError(f"no videos at {uri}: {place}, expected {wanted}; check the path")
        return ConfigError(
            f"no videos at {uri}: looked at {self.count} other files for {wanted}, the first was"
            f" {self.example}; check the path"
        )


def video_id(uri: str) -> str:
    """Return the id of a video: 16 hex digits of its URI's SHA-256."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def version(size_bytes: int, etag: str) -> str:
    """Return 12 hex digits that change whenever the file's content may have changed."""
    return hashlib.sha256(f"{size_bytes}:{etag}".encode()).hexdigest()[:12]
