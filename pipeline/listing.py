"""Finding videos: a folder, a pattern, one file or a bucket becomes one row per file found."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fsspec.utils import glob_translate

from pipeline.errors import ConfigError
from pipeline.rows import Row
from pipeline.store import exists, list_files

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".ogv", ".avi", ".flv", ".f4v", ".wmv"),
    *(".asf", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf"),
)
"""What is taken for a video when a folder is walked; files named one by one may be called anything."""


def list_videos(uri: str) -> Iterator[Row]:
    """Yield a rows.FILE row for every video of a folder (with those below), a pattern, one file, or a bucket prefix.

    In a pattern `*` and `?` stay within a folder and `**` crosses folders. A walk takes the suffixes of SUFFIXES
    and passes over hidden files; a file named, or matched by a pattern that ends in a suffix, is always taken.
    Nothing is held: rows come as the store lists.

    Raises:
        ConfigError: nothing is found.
        StoreError: the place cannot be listed.
    """
    if "://" not in uri:
        uri = os.path.normpath(Path(uri).expanduser().absolute())
    folder, pattern = uri, None
    if (magic := re.search(r"[*?\[]", uri)) and not exists(uri):
        folder = uri[: magic.start()].rpartition("/")[0]
        pattern = re.compile(glob_translate(uri))
    takes_all = pattern is not None and "." in PurePosixPath(uri).name
    num_videos = num_others = 0
    if "://" not in folder and not exists(folder):
        msg = f"no videos at {uri}: there is no such file or folder; check the path"
        raise ConfigError(msg)
    for entry in list_files(folder):
        name = PurePosixPath(entry.uri)
        is_video = name.suffix.lower() in SUFFIXES and not name.name.startswith(".")
        is_asked_for = pattern.match(entry.uri) is not None if pattern else True
        if not (is_asked_for and (takes_all or is_video or entry.uri == uri)):
            num_others += 1
            continue
        num_videos += 1
        yield {
            "video_id": video_id(entry.uri),
            "version": version(entry.size_bytes, entry.etag),
            "uri": entry.uri,
            "size_bytes": entry.size_bytes,
            "etag": entry.etag,
            "error_type": "",
            "error_message": "",
        }
    if not num_videos:
        wanted = "a match" if takes_all else f"a file ending in {', '.join(SUFFIXES)}"
        msg = f"no videos at {uri}: looked at {num_others} other files for {wanted}; check the path"
        raise ConfigError(msg)


def video_id(uri: str) -> str:
    """Return the id of a video: 16 hex digits of its URI's SHA-256."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def version(size_bytes: int, etag: str) -> str:
    """Return 12 hex digits that change whenever the file's content may have changed."""
    return hashlib.sha256(f"{size_bytes}:{etag}".encode()).hexdigest()[:12]
